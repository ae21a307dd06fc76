"""Measurements, each a module to run by hand; nothing here is a test, and no test is timed."""
