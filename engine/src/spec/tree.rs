//! [`Tree`]: a document after reading and before understanding.
//!
//! YAML and JSON both become this tree; keys keep their order and are unique.

use std::fmt;

/// A value of a document.
#[derive(Clone, Debug, PartialEq)]
pub enum Tree {
    /// `null`, `~` or an empty value.
    Null,
    /// `true` or `false`, nothing else.
    Bool(bool),
    /// A number, with its digits kept.
    Number(serde_json::Number),
    /// A text.
    String(String),
    /// A list.
    List(Vec<Self>),
    /// A mapping in document order, without duplicate keys.
    Map(Vec<(String, Self)>),
}

impl Tree {
    /// What the value is, with its article, for diagnostics.
    pub fn describe(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::String(_) => "a text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }

    /// Finds a key of a mapping.
    pub fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Map(entries) => {
                entries.iter().find(|(name, _)| name == key).map(|(_, value)| value)
            }
            Self::Null
            | Self::Bool(_)
            | Self::Number(_)
            | Self::String(_)
            | Self::List(_) => None,
        }
    }
}

/// A step on the way from the root of a document to a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Segment {
    /// The value of a key.
    Key(String),
    /// The name of a key itself (where the key is what is wrong).
    KeyName(String),
    /// An item of a list.
    Index(usize),
}

/// The way from the root of a document to a value; its place in the text is looked up
/// only when a diagnostic needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Path(pub Vec<Segment>);

impl Path {
    /// The path one key further down.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        self.with(Segment::Key(key.to_owned()))
    }

    /// The path to the name of a key.
    #[must_use]
    pub fn key_name(&self, key: &str) -> Self {
        self.with(Segment::KeyName(key.to_owned()))
    }

    /// The path one list item further down.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.with(Segment::Index(index))
    }

    /// The path as a JSON pointer (RFC 6901).
    pub fn pointer(&self) -> String {
        let mut pointer = String::new();
        for segment in &self.0 {
            pointer.push('/');
            match segment {
                Segment::Key(key) | Segment::KeyName(key) => {
                    pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
                }
                Segment::Index(index) => pointer.push_str(&index.to_string()),
            }
        }
        pointer
    }

    fn with(&self, segment: Segment) -> Self {
        let mut segments = self.0.clone();
        segments.push(segment);
        Self(segments)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Key(key) | Segment::KeyName(key) if at == 0 => {
                    write!(f, "{key}")?
                }
                Segment::Key(key) | Segment::KeyName(key) => write!(f, ".{key}")?,
                Segment::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}
