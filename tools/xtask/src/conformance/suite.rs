//! The suites: which there are, in which versions, and what each counts on in a broker.

use std::time::Duration;

use clap::ValueEnum;

/// A suite of tests that another project wrote, with one of the two group protocols where it can use
/// either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Suite {
    /// kafka-python's integration tests
    KafkaPython,
    /// confluent-kafka-python's integration tests of admin, consumer and producer
    ConfluentKafkaPython,
    /// The same without the producer, with groups of the new protocol (KIP-848)
    ConfluentKafkaPythonKip848,
    /// rskafka's tests
    Rskafka,
    /// rust-rdkafka's tests
    RustRdkafka,
    /// kcat's tests
    Kcat,
    /// librdkafka's tests that need a broker
    Librdkafka,
    /// The same, with groups of the new protocol (KIP-848)
    LibrdkafkaKip848,
}

/// Where a suite can be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Registry {
    /// A source package of the Python registry.
    Python { package: &'static str },
    /// A folder in a crate of the Rust registry.
    Rust { package: &'static str, folder: &'static str },
    /// The original archive of a Debian source package.
    Debian { package: &'static str, release: &'static str },
    /// Nowhere: only a checkout of its repository has it.
    None,
}

impl Suite {
    /// All, in the order in which they run.
    pub(crate) fn all() -> &'static [Self] {
        Self::value_variants()
    }

    /// As on the command line and in the results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::KafkaPython => "kafka-python",
            Self::ConfluentKafkaPython => "confluent-kafka-python",
            Self::ConfluentKafkaPythonKip848 => "confluent-kafka-python-kip848",
            Self::Rskafka => "rskafka",
            Self::RustRdkafka => "rust-rdkafka",
            Self::Kcat => "kcat",
            Self::Librdkafka => "librdkafka",
            Self::LibrdkafkaKip848 => "librdkafka-kip848",
        }
    }

    /// What it is.
    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::KafkaPython => "the integration tests of kafka-python",
            Self::ConfluentKafkaPython => {
                "the integration tests of confluent-kafka-python: admin, consumer, producer"
            }
            Self::ConfluentKafkaPythonKip848 => {
                "the same without the producer, with groups of the new protocol (KIP-848)"
            }
            Self::Rskafka => "the tests of rskafka",
            Self::RustRdkafka => "the tests of rust-rdkafka",
            Self::Kcat => "the tests of kcat",
            Self::Librdkafka => {
                "librdkafka's tests that need a broker: `TESTS=… ./test-runner -p1 -Q -L`, classic groups"
            }
            Self::LibrdkafkaKip848 => "the same, with groups of the new protocol (KIP-848)",
        }
    }

    /// The suite whose sources this one runs.
    pub(crate) fn source(self) -> Self {
        match self {
            Self::ConfluentKafkaPythonKip848 => Self::ConfluentKafkaPython,
            Self::LibrdkafkaKip848 => Self::Librdkafka,
            other => other,
        }
    }

    /// The version that is run, and that results are of.
    pub(crate) fn version(self) -> &'static str {
        match self.source() {
            Self::KafkaPython => "3.0.12",
            Self::ConfluentKafkaPython | Self::ConfluentKafkaPythonKip848 => "2.15.0",
            Self::Rskafka => "0.6.0",
            Self::RustRdkafka => "0.39.0",
            Self::Kcat => "1.7.1-2",
            // The crate's version, and behind the plus that of librdkafka.
            Self::Librdkafka | Self::LibrdkafkaKip848 => "4.10.0+2.12.1",
        }
    }

    /// Where it is fetched from.
    pub(crate) fn registry(self) -> Registry {
        match self.source() {
            Self::KafkaPython => Registry::Python { package: "kafka-python" },
            Self::ConfluentKafkaPython | Self::ConfluentKafkaPythonKip848 => Registry::None,
            Self::Rskafka => Registry::Rust { package: "rskafka", folder: "" },
            Self::RustRdkafka => Registry::Rust { package: "rdkafka", folder: "" },
            Self::Kcat => Registry::Debian { package: "kcat", release: "bookworm" },
            Self::Librdkafka | Self::LibrdkafkaKip848 => {
                Registry::Rust { package: "rdkafka-sys", folder: "librdkafka" }
            }
        }
    }

    /// What its version is of, for a reader.
    pub(crate) fn origin(self) -> String {
        let version = self.version();
        match self.registry() {
            Registry::Python { package } => format!("source package {package} {version} (Python)"),
            Registry::Rust { package, folder: "" } => format!("crate {package} {version}"),
            Registry::Rust { package, folder } => format!("{folder} in crate {package} {version}"),
            Registry::Debian { package, release } => {
                format!("source package {package} {version} (Debian {release})")
            }
            Registry::None => format!("a checkout of v{version}, with --path"),
        }
    }

    /// For one test.
    pub(crate) fn limit(self) -> Duration {
        Duration::from_secs(match self.source() {
            Self::Librdkafka | Self::LibrdkafkaKip848 => 300,
            _ => 60,
        })
    }

    /// Partitions of a topic that is created without a number of them.
    pub(crate) fn partitions(self) -> u32 {
        match self.source() {
            Self::RustRdkafka => 3,
            Self::Rskafka => 1,
            _ => 4,
        }
    }

    /// The number of the only node, which some tests know.
    pub(crate) fn node_id(self) -> u32 {
        match self {
            Self::KafkaPython | Self::RustRdkafka => 0,
            _ => 1,
        }
    }

    /// The port that some tests know; any free one when there is none.
    pub(crate) fn port(self) -> Option<u16> {
        (self == Self::RustRdkafka).then_some(9092)
    }

    /// Whether a topic that a client asks for comes into being.
    pub(crate) fn auto_create(self) -> bool {
        self != Self::Rskafka
    }

    /// Whether groups are of the new protocol.
    pub(crate) fn new_groups(self) -> bool {
        self != self.source()
    }
}
