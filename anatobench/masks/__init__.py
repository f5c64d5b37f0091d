"""Organ masks for scans that have none: made by TotalSegmentator, kept in one folder, looked over."""
