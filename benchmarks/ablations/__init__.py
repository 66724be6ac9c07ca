"""The paper's ablations at small scale, on generated videos.

groups            the questions, and the paper's answers
plan              the runs that answer them
starts            the encoders that runs start from
running           run the plan within a time limit
results           one line per finished run
page              the tables of docs/ablations.md
features_picture  effect of the TCM on encoded and remembered features (the paper's Appendix B.1)
"""
