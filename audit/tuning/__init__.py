"""Choose a guard's parameters on a calibration split: candidates, their audit, the choice and its evidence."""
