//! A partition's segments.
