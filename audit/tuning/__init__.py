"""A guard's parameters chosen on a calibration split: candidates, their audit, the choice."""
