"""How fast this machine is, and what stands in the way: ceilings, stages, and timing in turns."""
