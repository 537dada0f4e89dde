"""`tapveil bench`: what things cost here and now, as ratios within one run (machines are shared and noisy)."""
