"""The paper's ablations in small, on generated videos.

groups            which questions are asked, and what the paper says
plan              the runs that answer them
starts            the encoders that runs start from
running           one run after another, as far as time allows
results           one line per finished run
page              the tables of docs/ablations.md
features_picture  what the TCM does to encoded and remembered features (the paper's Appendix B.1)
"""
