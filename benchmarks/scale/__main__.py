"""`python -m benchmarks.scale`: print the lines of docs/scale.md."""

from benchmarks.scale.costs import main

if __name__ == "__main__":
    main()
