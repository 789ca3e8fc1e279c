"""The files and summaries of InterleavedBench and MMIE, and ``shapes-interleaved``: five aspects, judged exactly."""
