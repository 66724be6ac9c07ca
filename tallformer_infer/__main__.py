"""`python -m tallformer_infer` is `tallformer`."""

from tallformer_infer.cli import main

if __name__ == "__main__":
    main()
