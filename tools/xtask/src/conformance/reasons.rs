//! Why tests that pass on Apache Kafka do not pass on Corelog. One that is not here is a defect.

use super::suite::Suite;

struct Reason {
    suites: &'static [Suite],
    /// Names of tests; one that ends with `*` stands for all that begin so.
    tests: &'static [&'static str],
    why: &'static str,
}

const TRANSACTIONS: &str = "transactions are not served yet";
const ACLS: &str = "there are no ACLs yet";
const USERS: &str = "there are no SCRAM users yet";
const OWN_CLUSTER: &str = "it starts a cluster of its own, with TLS or SASL";
const SMALL_SEGMENTS: &str = "it wants smaller segments than Kafka 4 allows";
/// Eligible leader replicas (KIP-966) come with it from Kafka 4.1 on.
const MIN_ISR: &str =
    "it wants to see min.insync.replicas set for all brokers, as Kafka sets it by itself since 4.1";
/// What both brokers are started with has its part in it: see `broker.rs`.
const HEARTBEATS_AND_MIN_ISR: &str = "it takes the brokers' heartbeat interval, which is shorter here than by default, \
     for a config of its group; on Corelog it gets no further than to min.insync.replicas, which it wants to see set \
     for all brokers";

const REASONS: &[Reason] = &[
    Reason {
        suites: &[Suite::KafkaPython],
        tests: &["test/integration/test_producer_integration.py::test_transactional_producer_*"],
        why: TRANSACTIONS,
    },
    Reason {
        suites: &[Suite::KafkaPython],
        tests: &["test/integration/test_admin_integration.py::test_create_describe_delete_acls"],
        why: ACLS,
    },
    Reason {
        suites: &[Suite::KafkaPython],
        tests: &["test/integration/test_admin_integration.py::test_describe_metadata_quorum"],
        why: "DescribeQuorum comes with clusters of more than one node",
    },
    Reason { suites: &[Suite::RustRdkafka], tests: &["test_transactions::*"], why: TRANSACTIONS },
    Reason {
        suites: &[Suite::ConfluentKafkaPython],
        tests: &["tests/integration/producer/test_transactions.py::*"],
        why: TRANSACTIONS,
    },
    Reason {
        suites: &[Suite::ConfluentKafkaPython, Suite::ConfluentKafkaPythonKip848],
        tests: &["tests/integration/admin/test_basic_operations.py::test_basic_operations"],
        why: ACLS,
    },
    Reason {
        suites: &[Suite::ConfluentKafkaPython, Suite::ConfluentKafkaPythonKip848],
        tests: &["tests/integration/admin/test_user_scram_credentials.py::test_user_scram_credentials"],
        why: USERS,
    },
    Reason {
        suites: &[Suite::ConfluentKafkaPython],
        tests: &["tests/integration/admin/test_incremental_alter_configs.py::test_incremental_alter_configs"],
        why: MIN_ISR,
    },
    Reason {
        suites: &[Suite::Librdkafka, Suite::LibrdkafkaKip848],
        tests: &["0081_admin [Acls]", "0109_auto_create_topics", "0115_producer_auth", "0119_consumer_auth"],
        why: ACLS,
    },
    Reason {
        suites: &[Suite::Librdkafka, Suite::LibrdkafkaKip848],
        tests: &["0081_admin [AlterConfigs]"],
        why: "it sets a Kerberos config of a node: what a node does not know is refused, where Kafka keeps it",
    },
    Reason {
        suites: &[Suite::Librdkafka, Suite::LibrdkafkaKip848],
        tests: &["0081_admin [UserScramCredentials]"],
        why: USERS,
    },
    // What does not pass on Kafka either.
    Reason {
        suites: &[Suite::ConfluentKafkaPythonKip848],
        tests: &["tests/integration/admin/test_incremental_alter_configs.py::test_incremental_alter_configs"],
        why: HEARTBEATS_AND_MIN_ISR,
    },
    Reason {
        suites: &[Suite::KafkaPython],
        tests: &[
            "test/integration/test_ssl_integration.py::*",
            "test/integration/test_sasl_integration.py::*",
        ],
        why: OWN_CLUSTER,
    },
    Reason {
        suites: &[Suite::ConfluentKafkaPython, Suite::ConfluentKafkaPythonKip848],
        tests: &["tests/integration/admin/test_describe_operations.py::*"],
        why: OWN_CLUSTER,
    },
    Reason {
        suites: &[Suite::Librdkafka, Suite::LibrdkafkaKip848],
        tests: &["0077_compaction", "0129_fetch_aborted_msgs"],
        why: SMALL_SEGMENTS,
    },
    Reason {
        suites: &[Suite::Librdkafka, Suite::LibrdkafkaKip848],
        tests: &["0098_consumer_txn", "0101_fetch_from_follower", "0103_transactions"],
        why: "it wants three replicas",
    },
    Reason {
        suites: &[Suite::RustRdkafka],
        tests: &["test_low_producers::test_base_producer_timeout"],
        why: "it wants a broker that takes longer than 100 ms",
    },
];

/// The reason for a test, if one is written down.
pub(crate) fn of(suite: Suite, test: &str) -> Option<&'static str> {
    let fits = |pattern: &&str| match pattern.strip_suffix('*') {
        Some(beginning) => test.starts_with(beginning),
        None => test == *pattern,
    };
    REASONS
        .iter()
        .find(|reason| reason.suites.contains(&suite) && reason.tests.iter().any(fits))
        .map(|reason| reason.why)
}
