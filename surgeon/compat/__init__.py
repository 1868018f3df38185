"""The count behind "any model": every architecture of every source, looked at and tried."""
