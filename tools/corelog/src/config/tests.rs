use super::*;

fn load(text: &str, variables: &[(&str, &str)], flags: Overrides) -> Result<Config> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node.toml");
    std::fs::write(&path, text).unwrap();
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::load(Some(&path), &Environment::from_variables(variables), flags)
}

fn refusal(text: &str, variables: &[(&str, &str)]) -> String {
    format!("{:#}", load(text, variables, Overrides::default()).unwrap_err())
}

const EXAMPLE: &str = include_str!("../../../../docs/corelog.example.toml");

#[test]
fn the_example_is_complete_and_equals_the_defaults() {
    let parsed = Config::from_toml(EXAMPLE).unwrap();
    assert_eq!(parsed, Config::default());
    let in_example: Table = EXAMPLE.parse().unwrap();
    let in_force = environment::table_of(&Config::default());
    assert_eq!(in_example, in_force, "a key is missing in one of them");
}

use toml::Table;

#[test]
fn the_printed_configuration_gives_the_same_again() {
    assert_eq!(Config::default().to_commented_toml(), EXAMPLE);
    let mut config = Config::default();
    config.topics.auto_create = false;
    config.data_dir = "/with \"quotes\"".into();
    config.listener.push(Listener {
        name: "outside".to_owned(),
        bind: "0.0.0.0:9093".to_owned(),
        advertise: "example.org:9093".to_owned(),
    });
    let printed = config.to_commented_toml();
    assert_eq!(Config::from_toml(&printed).unwrap(), config, "{printed}");
    assert!(printed.contains("\n\n# /healthz, /metrics and the console.\n[http]"), "{printed}");
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let file = "node_id = 2\nshards = 2\n[topics]\ndefault_partitions = 2\n";
    let variables = [("CORELOG_SHARDS", "3"), ("CORELOG_NODE_ID", "3")];
    let flags =
        Overrides { node_id: Some(4), listen: Some("127.0.0.1:0".to_owned()), ..Overrides::default() };
    let config = load(file, &variables, flags).unwrap();
    assert_eq!((config.node_id, config.shards, config.topics.default_partitions), (4, 3, 2));
    assert_eq!(config.listener[0].bind, "127.0.0.1:0");
    assert_eq!(config.journal, Journal::default());
}

#[test]
fn every_key_has_a_variable() {
    let variables = [
        ("CORELOG_DATA_DIR", "/d"),
        ("CORELOG_HTTP_BIND", ""),
        ("CORELOG_TOPICS_AUTO_CREATE", "off"),
        ("CORELOG_TOPICS_DURABILITY", "write"),
        ("CORELOG_JOURNAL_FILE_BYTES", "33_554_432"),
        ("CORELOG_LISTENER_MAIN_BIND", "0.0.0.0:1"),
        ("CORELOG_LISTENER_MAIN_ADVERTISE", "a:2"),
        ("CORELOG_LISTENER_INSIDE_BIND", "10.0.0.1:3"),
    ];
    let config = load("", &variables, Overrides::default()).unwrap();
    assert_eq!(config.data_dir, PathBuf::from("/d"));
    assert_eq!(config.http_addr().unwrap(), None);
    assert!(!config.topics.auto_create);
    assert_eq!(config.topics.durability, DefaultDurability::Write);
    assert_eq!(config.journal.file_bytes, 32 << 20);
    assert_eq!(config.listener[0].advertised("0.0.0.0:1".parse().unwrap()).unwrap(), ("a".to_owned(), 2));
    assert_eq!(config.listener[1].bind, "10.0.0.1:3");
}

#[test]
fn a_wrong_key_is_refused_with_file_line_and_key() {
    let message = refusal("node_id = 1\n[topics]\nauto_craete = true\n", &[]);
    for part in ["node.toml", "line 3", "auto_craete", "auto_create"] {
        assert!(message.contains(part), "{part} is missing in: {message}");
    }
    let message = refusal("[topics]\ndefault_partitions = \"many\"\n", &[]);
    assert!(message.contains("line 2") && message.contains("expected i32"), "{message}");
    let message = refusal("", &[("CORELOG_SHARDS", "two")]);
    assert!(message.contains("CORELOG_SHARDS") && message.contains("two"), "{message}");
    let message = refusal("", &[("CORELOG_TOPICS_DURABILITY", "never")]);
    assert!(message.contains("CORELOG_TOPICS_DURABILITY") && message.contains("never"), "{message}");
}

#[test]
fn an_unspecified_address_is_never_advertised() {
    let message = refusal("[[listener]]\nname = \"main\"\nbind = \"0.0.0.0:9092\"\n", &[]);
    assert!(message.contains("--advertise"), "{message}");
    let message = refusal("", &[("CORELOG_LISTENER_MAIN_BIND", "[::]:9092")]);
    assert!(message.contains("--advertise"), "{message}");
    let message = refusal("", &[("CORELOG_LISTENER_MAIN_ADVERTISE", "0.0.0.0:9092")]);
    assert!(message.contains("--advertise"), "{message}");
}

#[test]
fn an_advertised_port_0_is_the_port_that_was_bound() {
    let listener = Listener {
        name: "main".to_owned(),
        bind: "0.0.0.0:0".to_owned(),
        advertise: "example.org:0".to_owned(),
    };
    let bound = "0.0.0.0:4711".parse().unwrap();
    assert_eq!(listener.advertised(bound).unwrap(), ("example.org".to_owned(), 4711));
}

#[test]
fn impossible_values_are_refused() {
    for (text, part) in [
        ("listener = []", "listener"),
        ("[journal]\nfile_bytes = 1000", "journal.file_bytes"),
        ("[journal]\nmax_files = 1", "journal.max_files"),
        ("cores = \"3-1\"", "3-1"),
        ("cores = \"0,0\"", "twice"),
        ("node_id = -1", "node_id"),
        ("[network]\nsend_buffer_bytes = 4294967296", "network.send_buffer_bytes"),
        ("[network]\nsend_buffer_bytes = 1", "network.send_buffer_bytes"),
        ("[topics]\ndefault_partitions = 0", "default_partitions"),
        ("[groups]\nmin_session_timeout_ms = 9\nmax_session_timeout_ms = 8", "groups.min_session_timeout_ms"),
        ("[groups]\noffset_metadata_max_bytes = 40000", "groups.offset_metadata_max_bytes"),
        ("[groups]\nconsumer_heartbeat_interval_ms = 45000", "groups.consumer_heartbeat_interval_ms"),
        ("[groups]\nconsumer_migration = \"sideways\"", "sideways"),
        ("[http]\nbind = \"9644\"", "http.bind"),
        ("[[listener]]\nname = \"a\"\nbind = \"h:1\"", "'a'"),
    ] {
        let message = refusal(text, &[]);
        assert!(message.contains(part), "{part} is missing in: {message}");
    }
}

#[test]
fn variables_that_set_nothing_are_told_apart() {
    let variables = ["CORELOG_SHARDS", "CORELOG_LOG", "CORELOG_SERVICE_HOST", "CORELOG_LISTENER_X_BIND"];
    let variables = variables.map(|name| (name.to_owned(), "1".to_owned()));
    assert_eq!(Environment::from_variables(variables).unknown(), ["CORELOG_SERVICE_HOST"]);
}

#[test]
fn cores_are_numbers_and_ranges() {
    assert_eq!(parse_cores("all").unwrap(), None);
    assert_eq!(parse_cores("0, 2-4").unwrap(), Some(vec![0, 2, 3, 4]));
    assert!(parse_cores("").is_err());
}

#[test]
fn the_operators_page_says_what_every_key_does() {
    const PAGE: &str = include_str!("../../../../docs/OPERATIONS.md");
    let row = |key: &str| assert!(PAGE.contains(&format!("| `{key}` |")), "docs/OPERATIONS.md lacks {key}");
    for (key, value) in environment::table_of(&Config::default()) {
        match value {
            toml::Value::Table(section) => section.keys().for_each(|inner| row(&format!("{key}.{inner}"))),
            toml::Value::Array(_) => {
                ["name", "bind", "advertise"].iter().for_each(|it| row(&format!("listener.{it}")));
            }
            _ => row(&key),
        }
    }
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    /// A line of the example, or something else.
    fn line() -> impl Strategy<Value = String> {
        let lines: Vec<&str> = EXAMPLE.lines().filter(|line| !line.starts_with('#')).collect();
        let value = prop_oneof![
            Just("99999999999999999999".to_owned()),
            any::<i64>().prop_map(|number| number.to_string()),
            Just("\"\"".to_owned()),
            "\"[ -~]{0,20}\"",
            Just("true".to_owned()),
            Just("[[]]".to_owned()),
        ];
        prop_oneof![
            3 => prop::sample::select(lines.clone()).prop_map(str::to_owned),
            2 => (prop::sample::select(lines), value).prop_map(|(line, value)| {
                line.split_once('=').map_or(line.to_owned(), |(key, _)| format!("{key}= {value}"))
            }),
            1 => "[ -~\\t]{0,40}",
        ]
    }

    proptest! {
        #[test]
        fn no_text_makes_the_configuration_panic(lines in prop::collection::vec(line(), 0..12), text in ".{0,80}") {
            for text in [lines.join("\n"), text] {
                if let Ok(config) = Config::from_toml(&text) {
                    let _ = config.check();
                    prop_assert_eq!(Config::from_toml(&config.to_commented_toml()).unwrap(), config);
                }
            }
        }

        #[test]
        fn no_variable_makes_the_configuration_panic(
            name in "(CORELOG_[A-Z_]{0,30}|CORELOG_LISTENER_[A-Z]{0,4}_(BIND|ADVERTISE)|CORELOG_JOURNAL_FILE_BYTES|CORELOG_CORES)",
            value in ".{0,40}",
        ) {
            let environment = Environment::from_variables([(name, value)]);
            if let Ok(config) = environment.apply(Config::default()) {
                let _ = config.check();
            }
            let _ = environment.unknown();
        }

        #[test]
        fn no_list_of_cores_panics_or_grows(text in "[0-9, a-z-]{0,30}") {
            if let Ok(Some(cores)) = super::super::cores::parse_cores(&text) {
                prop_assert!(cores.len() <= 4096);
            }
        }
    }
}
