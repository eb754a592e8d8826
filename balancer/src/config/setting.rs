//! `KEY=VALUE` of `balancer set`: a change of a configuration file's text, which keeps the rest of it as it is.
//!
//! Keys are the file's: `TABLE.KEY`, or `SERVICE.KEY` for what is in a service's table. What is set oftenest has a short name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use toml_edit::{ArrayOfTables, DocumentMut, InlineTable, Item, TableLike, Value};

use super::{ConfigError, ServiceSpec, ValueError};

/// Keys that need no table before them, and their tables.
pub const SHORT: [(&str, &str); 6] = [
    ("overload", "levels"),
    ("margin", "levels"),
    ("policy", "levels"),
    ("cpu", "load"),
    ("period", "exchange"),
    ("timeout_periods", "exchange"),
];

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    key: String,
    value: String,
}

impl FromStr for Setting {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => Ok(Self {
                key: key.trim().to_owned(),
                value: value.trim().to_owned(),
            }),
            _ => Err(ValueError::new(
                text,
                "a setting: write KEY=VALUE, as in overload=60%",
            )),
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.key, self.value)
    }
}

impl Setting {
    /// `text` with this change. A service that a server offers without being told to is written out first.
    ///
    /// # Errors
    ///
    /// There is no place for such a key. Whether it may be there, and its value, is for who reads the new text to say.
    pub(super) fn apply(&self, text: &str) -> Result<String, ConfigError> {
        let mut file = document(text)?;
        if services(&mut file).is_empty() {
            let mut with_default = file.clone();
            with_default["service"] = tables(&[ServiceSpec::default()]);
            if self.service(&mut with_default).is_some() {
                file = with_default;
            }
        }
        let (place, rest) = if let Some((index, rest)) = self.service(&mut file) {
            (services(&mut file).swap_remove(index), rest)
        } else {
            let (table, rest) = self.table()?;
            let item = file
                .entry(table)
                .or_insert_with(toml_edit::table)
                .as_table_like_mut();
            (item.ok_or_else(|| self.refused("is no table"))?, rest)
        };
        self.enter(place, rest)?;
        Ok(file.to_string())
    }

    /// Whether this is about one of the services that `text` has, or that a server has without being told.
    pub(super) fn is_of_service(&self, text: &str) -> bool {
        document(text).is_ok_and(|mut file| {
            if services(&mut file).is_empty() {
                file["service"] = tables(&[ServiceSpec::default()]);
            }
            self.service(&mut file).is_some()
        })
    }

    /// What is wrong with it.
    pub(super) fn refused(&self, message: impl fmt::Display) -> ConfigError {
        ConfigError::Setting {
            setting: self.to_string(),
            message: message.to_string(),
        }
    }

    /// The service that the key begins with, and the rest of the key. A name may have dots.
    fn service<'a>(&'a self, file: &mut DocumentMut) -> Option<(usize, &'a str)> {
        let rest = |table: &mut dyn TableLike| {
            let name = table.get("name")?.as_str()?;
            self.key.strip_prefix(name)?.strip_prefix('.')
        };
        let mut tables = services(file).into_iter().enumerate();
        tables.find_map(|(index, table)| Some((index, rest(table)?)))
    }

    /// The table that the key is in, and the rest of the key.
    fn table(&self) -> Result<(&str, &str), ConfigError> {
        if let Some(place) = self.key.split_once('.') {
            return Ok(place);
        }
        let short = SHORT.iter().find(|(key, _)| *key == self.key);
        short
            .map(|(key, table)| (*table, *key))
            .ok_or_else(|| {
                let known: Vec<_> = SHORT.iter().map(|(key, _)| *key).collect();
                self.refused(format!(
                    "there is no such key: write {}; SERVICE.KEY, as in www.capacity; or TABLE.KEY as in the file",
                    known.join(", ")
                ))
            })
    }

    fn enter(&self, table: &mut dyn TableLike, key: &str) -> Result<(), ConfigError> {
        if let Some((outer, rest)) = key.split_once('.') {
            let item = table
                .entry(outer)
                .or_insert(Item::Value(InlineTable::new().into()));
            let inner = item.as_table_like_mut();
            return self.enter(
                inner.ok_or_else(|| self.refused(format!("{outer} is no table")))?,
                rest,
            );
        }
        let mut value = self.value();
        if let Some(old) = table.get(key).and_then(Item::as_value) {
            // The comment behind it.
            *value.decor_mut() = old.decor().clone();
        }
        table.insert(key, Item::Value(value));
        Ok(())
    }

    /// As TOML has it; what is none is a string, so that no shell has to be told of quotes.
    fn value(&self) -> Value {
        self.value
            .parse()
            .unwrap_or_else(|_| self.value.as_str().into())
    }
}

/// `text` with these services in place of its own.
pub(super) fn with_services(text: &str, specs: &[ServiceSpec]) -> Result<String, ConfigError> {
    let mut file = document(text)?;
    file["service"] = tables(specs);
    Ok(file.to_string())
}

fn document(text: &str) -> Result<DocumentMut, ConfigError> {
    text.parse()
        .map_err(|error: toml_edit::TomlError| ConfigError::Edit {
            message: error.to_string(),
        })
}

fn tables(specs: &[ServiceSpec]) -> Item {
    let mut tables = ArrayOfTables::new();
    for spec in specs {
        tables.push(spec.table());
    }
    Item::ArrayOfTables(tables)
}

/// The services' tables, in either of the two ways to write them.
fn services(file: &mut DocumentMut) -> Vec<&mut dyn TableLike> {
    match file.get_mut("service") {
        Some(Item::ArrayOfTables(tables)) => tables
            .iter_mut()
            .map(|table| table as &mut dyn TableLike)
            .collect(),
        Some(Item::Value(Value::Array(array))) => array
            .iter_mut()
            .filter_map(Value::as_inline_table_mut)
            .map(|table| table as &mut dyn TableLike)
            .collect(),
        _ => Vec::new(),
    }
}
