//! Offline.
