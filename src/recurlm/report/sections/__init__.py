"""The parts of a report that stage diagnose measures, one file each."""
