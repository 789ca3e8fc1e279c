"""What the design saves, measured: guidance-free rollouts, one context per picture, one prompt per group."""
