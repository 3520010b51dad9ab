//! Committed offsets of groups are kept in a compacted topic.
