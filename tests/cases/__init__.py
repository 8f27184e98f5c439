"""What several test modules share: functions, random programs, strategies and comparisons."""
