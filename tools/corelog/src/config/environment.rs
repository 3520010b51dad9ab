//! The environment as a layer of the configuration.
//!
//! Names are made from the configuration itself, so that a new key has a variable at once.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow};
use toml::{Table, Value};

use super::{Config, Listener};

const PREFIX: &str = "CORELOG_";
const LISTENER_PREFIX: &str = "CORELOG_LISTENER_";
/// Variables of the command line, not of the configuration.
const OTHERS: [&str; 2] = ["CORELOG_BOOTSTRAP", "CORELOG_LOG"];

/// The variables whose names begin with `CORELOG_`.
#[derive(Debug, Default)]
pub(crate) struct Environment(BTreeMap<String, String>);

impl Environment {
    /// This process's.
    pub(crate) fn of_process() -> Self {
        Self::from_variables(std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        }))
    }

    pub(crate) fn from_variables(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let ours = variables
            .into_iter()
            .filter(|(name, _)| name.starts_with(PREFIX) && !OTHERS.contains(&name.as_str()));
        Self(ours.collect())
    }

    /// Variables that set nothing. They are told, not refused: Kubernetes gives every container of
    /// a namespace with a service called "corelog" some that begin alike.
    pub(crate) fn unknown(&self) -> Vec<&str> {
        let known = leaves(&table_of(&Config::default()));
        let names = self.0.keys().map(String::as_str);
        names.filter(|name| !known.contains_key(*name) && listener_variable(name).is_none()).collect()
    }

    /// `config` with what the environment sets.
    pub(crate) fn apply(&self, config: Config) -> Result<Config> {
        let mut table = table_of(&config);
        for (name, path) in leaves(&table) {
            let Some(text) = self.0.get(&name) else {
                continue;
            };
            let place = find(&mut table, &path).context("a leaf of this very table")?;
            *place =
                parse_like(place, text).with_context(|| format!("in the environment variable {name}"))?;
            // One at a time, so that the error belongs to this variable.
            Config::deserialize_table(table.clone())
                .with_context(|| format!("in the environment variable {name}"))?;
        }
        let mut config = Config::deserialize_table(table)?;
        self.apply_listeners(&mut config);
        Ok(config)
    }

    fn apply_listeners(&self, config: &mut Config) {
        for (name, text) in &self.0 {
            let Some((listener, key)) = listener_variable(name) else {
                continue;
            };
            let at = config.listener.iter().position(|it| it.name == listener);
            let listener = match at {
                Some(at) => &mut config.listener[at],
                None => config.listener.push_mut(Listener {
                    name: listener,
                    bind: String::new(),
                    advertise: String::new(),
                }),
            };
            match key {
                ListenerKey::Bind => listener.bind.clone_from(text),
                ListenerKey::Advertise => listener.advertise.clone_from(text),
            }
        }
    }
}

enum ListenerKey {
    Bind,
    Advertise,
}

/// `CORELOG_LISTENER_MAIN_BIND` is the bind of "main".
fn listener_variable(name: &str) -> Option<(String, ListenerKey)> {
    let rest = name.strip_prefix(LISTENER_PREFIX)?;
    let (listener, key) = match rest.strip_suffix("_BIND") {
        Some(listener) => (listener, ListenerKey::Bind),
        None => (rest.strip_suffix("_ADVERTISE")?, ListenerKey::Advertise),
    };
    (!listener.is_empty()).then(|| (listener.to_lowercase(), key))
}

impl Config {
    fn deserialize_table(table: Table) -> Result<Self> {
        table.try_into().map_err(|error: toml::de::Error| anyhow!("{}", error.message()))
    }
}

pub(super) fn table_of(config: &Config) -> Table {
    Table::try_from(config).expect("every value of the configuration has a form in TOML")
}

/// Every plain value, by the name of its variable.
fn leaves(table: &Table) -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::new();
    for (key, value) in table {
        match value {
            Value::Table(section) => {
                for inner in section.keys() {
                    let name = format!("{PREFIX}{key}_{inner}").to_uppercase();
                    found.insert(name, vec![key.clone(), inner.clone()]);
                }
            }
            // Listeners have variables of their own.
            Value::Array(_) => {}
            Value::String(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Datetime(_) => {
                found.insert(format!("{PREFIX}{key}").to_uppercase(), vec![key.clone()]);
            }
        }
    }
    found
}

fn find<'a>(table: &'a mut Table, path: &[String]) -> Option<&'a mut Value> {
    match path {
        [key] => table.get_mut(key),
        [section, key] => table.get_mut(section)?.as_table_mut()?.get_mut(key),
        _ => None,
    }
}

/// `text` as a value of the same type.
fn parse_like(like: &Value, text: &str) -> Result<Value> {
    Ok(match like {
        Value::Integer(_) => {
            let number = text.trim().replace('_', "").parse();
            Value::Integer(number.map_err(|_| anyhow!("'{text}' is not a whole number"))?)
        }
        Value::Boolean(_) => match text.trim() {
            "true" | "1" | "yes" | "on" => Value::Boolean(true),
            "false" | "0" | "no" | "off" => Value::Boolean(false),
            _ => return Err(anyhow!("'{text}' is neither true nor false")),
        },
        Value::String(_) | Value::Float(_) | Value::Datetime(_) | Value::Array(_) | Value::Table(_) => {
            Value::String(text.to_owned())
        }
    })
}
