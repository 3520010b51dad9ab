//! The configuration in force, as a file with its comments.

use std::fmt::Write as _;

use toml::{Table, Value};

use super::Config;
use super::environment::table_of;

const EXAMPLE: &str = include_str!("../../../../docs/corelog.example.toml");
const LISTENER_SECTION: &str = "[[listener]]";

impl Config {
    /// The example with these values: what it prints is a file that gives this configuration.
    pub(crate) fn to_commented_toml(&self) -> String {
        let table = table_of(self);
        let mut text = String::new();
        let mut section: Option<String> = None;
        for line in EXAMPLE.lines() {
            if line == LISTENER_SECTION {
                section = Some("listener".to_owned());
                text.push_str(line);
            } else if let Some(name) = line.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
                if section.as_deref() == Some("listener") {
                    self.write_further_listeners(&mut text);
                }
                section = Some(name.to_owned());
                text.push_str(line);
            } else {
                match line.split_once(" = ").filter(|_| !line.starts_with('#')) {
                    Some((key, _)) => {
                        let value = self.value_of(&table, section.as_deref(), key);
                        write!(text, "{key} = {value}").expect("a string takes everything");
                    }
                    None => text.push_str(line),
                }
            }
            text.push('\n');
        }
        text
    }

    fn value_of(&self, table: &Table, section: Option<&str>, key: &str) -> Value {
        let found = match section {
            None => table.get(key),
            Some("listener") => {
                let first = self.listener.first().expect("checked: there is one");
                return Value::String(match key {
                    "name" => first.name.clone(),
                    "bind" => first.bind.clone(),
                    _ => first.advertise.clone(),
                });
            }
            Some(section) => table.get(section).and_then(|section| section.get(key)),
        };
        found.cloned().expect("a test compares the example's keys with the configuration's")
    }

    /// Put before the section that follows the first listener.
    fn write_further_listeners(&self, text: &mut String) {
        // The comment above the next section is already written; the listeners go before it.
        let comment = text.trim_end().rfind("\n\n").map_or(text.len(), |at| at + 1);
        let tail = text.split_off(comment);
        for listener in self.listener.iter().skip(1) {
            let quoted = |text: &str| Value::String(text.to_owned());
            let (name, bind) = (quoted(&listener.name), quoted(&listener.bind));
            let advertise = quoted(&listener.advertise);
            write!(text, "\n{LISTENER_SECTION}\nname = {name}\nbind = {bind}\nadvertise = {advertise}\n")
                .expect("a string takes everything");
        }
        text.push_str(&tail);
    }
}
