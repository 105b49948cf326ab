"""What is found out about fitted classifiers: metrics, tests, calibration, few-shot curves."""
