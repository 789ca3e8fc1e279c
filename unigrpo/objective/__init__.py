"""The objective: advantages, ratios, trust regions, aggregation, penalties, modality weights, the losses."""
