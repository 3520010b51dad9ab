//! Limits and times of groups, by the names and defaults of Kafka's broker configs.

/// How groups are coordinated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupConfig {
    /// `offsets.topic.num.partitions`, when that topic is made.
    pub offsets_topic_partitions: i32,
    /// `group.min.session.timeout.ms`.
    pub min_session_timeout_ms: i32,
    /// `group.max.session.timeout.ms`.
    pub max_session_timeout_ms: i32,
    /// `group.initial.rebalance.delay.ms`: how long an empty group waits for more members.
    pub initial_rebalance_delay_ms: u32,
    /// `group.max.size`, in classic groups.
    pub max_size: usize,
    /// How long a member that is new in a classic group may wait without a sign of life: 5 minutes,
    /// not a config in Kafka.
    pub new_member_join_timeout_ms: u32,
    /// How many member ids are given out at most, in all groups together, to clients that have not come
    /// back with them yet. Not a config in Kafka.
    pub pending_ids_max: usize,
    /// How many groups there are at most of which nothing was kept yet. Not a config in Kafka.
    pub forming_groups_max: usize,
    /// `offset.metadata.max.bytes`; like Kafka counted in UTF-16 units. A record has room for 32,767
    /// bytes, whatever this says.
    pub offset_metadata_max_bytes: usize,
    /// `offsets.retention.minutes`, in milliseconds.
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`.
    pub offsets_retention_check_interval_ms: u32,
    /// `group.consumer.session.timeout.ms`.
    pub consumer_session_timeout_ms: u32,
    /// `group.consumer.heartbeat.interval.ms`.
    pub consumer_heartbeat_interval_ms: i32,
    /// `group.consumer.max.size`.
    pub consumer_max_size: usize,
    /// `group.consumer.migration.policy`.
    pub migration: MigrationPolicy,
    /// A group's regular expressions are looked up at most once in this time, new ones too. Not a
    /// config in Kafka, where it is the same 10 seconds.
    pub regex_refresh_min_interval_ms: u32,
}

/// Whether groups change between the classic and the consumer protocol while they have members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MigrationPolicy {
    /// `bidirectional`.
    Bidirectional,
    /// `upgrade`: from classic to consumer.
    Upgrade,
    /// `downgrade`: from consumer to classic.
    Downgrade,
    /// `disabled`.
    Disabled,
}

impl MigrationPolicy {
    pub(super) fn upgrades(self) -> bool {
        matches!(self, Self::Bidirectional | Self::Upgrade)
    }

    pub(super) fn downgrades(self) -> bool {
        matches!(self, Self::Bidirectional | Self::Downgrade)
    }
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            offsets_topic_partitions: 50,
            min_session_timeout_ms: 6_000,
            max_session_timeout_ms: 1_800_000,
            initial_rebalance_delay_ms: 3_000,
            max_size: usize::MAX,
            new_member_join_timeout_ms: 300_000,
            pending_ids_max: 100_000,
            forming_groups_max: 100_000,
            offset_metadata_max_bytes: 4_096,
            offsets_retention_ms: 7 * 24 * 3_600 * 1_000,
            offsets_retention_check_interval_ms: 600_000,
            consumer_session_timeout_ms: 45_000,
            consumer_heartbeat_interval_ms: 5_000,
            consumer_max_size: usize::MAX,
            migration: MigrationPolicy::Bidirectional,
            regex_refresh_min_interval_ms: 10_000,
        }
    }
}
