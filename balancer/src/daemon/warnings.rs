//! What an operator should know of.

use std::collections::BTreeMap;

use anyhow::Result;

/// Warnings by what they are about: logged once, shown by `status` for as long as they hold.
#[derive(Default)]
pub struct Warnings(BTreeMap<String, String>);

impl Warnings {
    /// Warns of `text`, or takes back what was said of `about` before.
    pub fn set(&mut self, about: &str, text: Option<String>) {
        match text {
            None => {
                self.0.remove(about);
            }
            Some(text) if self.0.get(about) == Some(&text) => {}
            Some(text) => {
                log::warn!("{text}");
                self.0.insert(about.to_owned(), text);
            }
        }
    }

    /// Warns of a failure, or takes back what was said of the one before.
    pub fn note(&mut self, about: &str, result: Result<()>) {
        self.set(
            about,
            result.err().map(|error| format!("{about}: {error:#}")),
        );
    }

    /// Takes back all that is about `prefix` and what is part of it.
    pub fn clear(&mut self, prefix: &str) {
        self.0.retain(|about, _| !about.starts_with(prefix));
    }

    /// What was said and still holds.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.0.values().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hold_until_they_are_taken_back() {
        let mut warnings = Warnings::default();
        warnings.set("a name", Some("one".into()));
        warnings.set("a link", Some("two".into()));
        warnings.note("b", Err(anyhow::anyhow!("three")));
        assert_eq!(
            warnings.texts().collect::<Vec<_>>(),
            ["two", "one", "b: three"]
        );
        warnings.set("a link", None);
        warnings.note("b", Ok(()));
        assert_eq!(warnings.texts().collect::<Vec<_>>(), ["one"]);
        warnings.clear("a ");
        assert_eq!(warnings.texts().count(), 0);
    }
}
