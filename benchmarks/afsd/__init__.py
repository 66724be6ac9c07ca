"""AFSD's inference pipeline at its published sizes, timed stage by stage beside TALLFormer: python -m benchmarks.afsd.

Weights are random, as the cost of networks does not depend on them. The cost of optical flow depends on the pictures,
so frames are real.

Source: AFSD (Lin et al., CVPR 2021) and its code (TencentYoutuResearch/ActionDetection-AFSD, commit ed86a0d); sizes and
behaviour only.
"""
