"""AFSD's inference pipeline at its published sizes, timed stage by stage beside TALLFormer: python -m benchmarks.afsd.

Weights are random: what networks cost does not depend on them. What optical flow costs depends on the pictures, so the
frames are real ones.

Source: AFSD (Lin et al., CVPR 2021) and its code (TencentYoutuResearch/ActionDetection-AFSD, commit ed86a0d); sizes and
behaviour only.
"""
