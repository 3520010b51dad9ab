//! A shard's commit log.
