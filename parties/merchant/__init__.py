"""The merchant's counter: the lane between reader, till and TSM."""
