//! [`Source`]: the text of a document, kept for looking up places.
//!
//! Reading makes a [`Tree`] without positions, which keeps it small; a place is looked up
//! by walking the text once more, only when there is something to complain about.

use super::{
    Diagnostic, Path, Tree, graph::too_many_tasks, json, positions::Positions,
    reader::Findings, yaml,
};

/// How a document is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// YAML 1.2.
    Yaml,
    /// JSON.
    Json,
}

/// What a reader accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest text, in bytes.
    pub bytes: usize,
    /// The most tasks.
    pub tasks: usize,
    /// The deepest nesting of YAML.
    pub depth: usize,
    /// The most uses of YAML anchors.
    pub aliases: usize,
}

impl Default for Limits {
    /// What the library and the command line accept: 64 MiB and a million tasks.
    fn default() -> Self {
        Self { bytes: 64 << 20, tasks: 1_000_000, depth: 64, aliases: 100 }
    }
}

impl Limits {
    /// What a server accepts: 32 MiB and 100,000 tasks.
    pub const fn server() -> Self {
        Self { bytes: 32 << 20, tasks: 100_000, depth: 64, aliases: 100 }
    }
}

/// The text of a document with its name.
#[derive(Clone, Debug)]
pub struct Source {
    name: Option<String>,
    text: String,
    format: Format,
}

impl Source {
    /// Takes a text.
    pub fn new(name: Option<&str>, text: impl Into<String>, format: Format) -> Self {
        let mut text = text.into();
        if text.starts_with('\u{feff}') {
            text.drain(..'\u{feff}'.len_utf8());
        }
        Self { name: name.map(str::to_owned), text, format }
    }

    /// Takes the bytes of a file; without a format, its name or its first character
    /// decides.
    ///
    /// # Errors
    /// A diagnostic when the bytes are not UTF-8.
    pub fn from_bytes(
        name: Option<&str>,
        bytes: Vec<u8>,
        format: Option<Format>,
    ) -> Result<Self, Diagnostic> {
        let utf16 =
            bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
        let text = String::from_utf8(bytes).map_err(|error| {
            let good = error.utf8_error().valid_up_to();
            let before =
                String::from_utf8_lossy(&error.as_bytes()[..good]).into_owned();
            let message = if utf16 {
                "the document is UTF-16".to_owned()
            } else {
                format!("the document is not UTF-8: byte {good} is not a character")
            };
            let mut diagnostic =
                Diagnostic::error("not_utf8", message).help("save the file as UTF-8");
            diagnostic.file = name.map(str::to_owned);
            diagnostic.line = to_u32(before.matches('\n').count() + 1);
            let line = before.rsplit('\n').next().unwrap_or_default();
            diagnostic.column = to_u32(line.chars().count() + 1);
            diagnostic
        })?;
        let format = format.unwrap_or_else(|| Self::guess(name, &text));
        Ok(Self::new(name, text, format))
    }

    /// JSON by its ending; without a telling one, a text that begins with a bracket.
    /// YAML that begins so is read as JSON too: its flow form is nearly the same, and the
    /// diagnostics of JSON are clearer for machines that write it.
    fn guess(name: Option<&str>, text: &str) -> Format {
        let ending = name.and_then(|name| std::path::Path::new(name).extension());
        match ending.and_then(|ending| ending.to_str()) {
            Some("json") => Format::Json,
            Some("yaml" | "yml") => Format::Yaml,
            _ if text.trim_start().starts_with(['{', '[']) => Format::Json,
            _ => Format::Yaml,
        }
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The name, where there is one.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Reads the text.
    ///
    /// # Errors
    /// What is wrong with it, placed.
    pub fn read(&self, limits: &Limits) -> Result<Tree, Vec<Diagnostic>> {
        if self.text.len() > limits.bytes {
            let message = format!(
                "the document has {} bytes, more than the limit of {}",
                self.text.len(),
                limits.bytes
            );
            let diagnostic = Diagnostic::error("too_large", message)
                .help("split the work into several projects");
            return Err(vec![self.place(diagnostic, &Path::default())]);
        }
        let result = match self.format {
            Format::Yaml => yaml::read(&self.text, limits),
            Format::Json => json::read(&self.text),
        };
        let tree = result.map_err(|diagnostic| vec![self.with_snippet(diagnostic)])?;
        // A task weighs much more than the few bytes it may be written with.
        match tree.get("tasks") {
            Some(Tree::Map(tasks)) if tasks.len() > limits.tasks => {
                let diagnostic = too_many_tasks(tasks.len(), limits.tasks);
                Err(vec![self.place(diagnostic, &Path::default().key("tasks"))])
            }
            _ => Ok(tree),
        }
    }

    /// Gives a finding the place of a path.
    pub fn place(&self, diagnostic: Diagnostic, path: &Path) -> Diagnostic {
        self.place_all(vec![(diagnostic, path.clone())]).remove(0)
    }

    /// Gives findings the places of their paths, walking the text once. Errors come
    /// first, in the order of the text.
    pub fn place_all(&self, found: Vec<(Diagnostic, Path)>) -> Vec<Diagnostic> {
        if found.is_empty() {
            return vec![];
        }
        let mut positions = Positions::of(found.iter().map(|(_, path)| path));
        match self.format {
            Format::Yaml => yaml::find(&self.text, &mut positions),
            Format::Json => json::find(&self.text, &mut positions),
        }
        let mut placed: Vec<Diagnostic> = found
            .into_iter()
            .map(|(mut diagnostic, path)| {
                (diagnostic.line, diagnostic.column) = positions.locate(&path);
                diagnostic.pointer = Some(path.pointer());
                diagnostic
            })
            .collect();
        placed.sort_by_key(|found| {
            let is_count = found.code == Findings::MORE;
            (is_count, !found.is_error(), found.line, found.column)
        });
        self.add_snippets(&mut placed);
        placed
    }

    /// Gives findings the lines they stand on, walking the text once for all of them.
    fn add_snippets(&self, placed: &mut [Diagnostic]) {
        let mut by_line: Vec<&mut Diagnostic> = placed.iter_mut().collect();
        by_line.sort_by_key(|found| found.line);
        let mut lines = self.text.lines();
        let (mut read, mut line) = (0, None);
        for found in by_line {
            if found.line > read {
                line = lines.nth((found.line - read - 1) as usize);
                read = found.line;
            }
            self.set_snippet(found, line);
        }
    }

    fn with_snippet(&self, mut diagnostic: Diagnostic) -> Diagnostic {
        self.add_snippets(std::slice::from_mut(&mut diagnostic));
        diagnostic
    }

    fn set_snippet(&self, diagnostic: &mut Diagnostic, line: Option<&str>) {
        const SHOWN: usize = 160;
        diagnostic.file.clone_from(&self.name);
        // A line that is longer than a screen would hide the message.
        diagnostic.snippet = line
            .filter(|_| diagnostic.line > 0 && (diagnostic.column as usize) < SHOWN)
            .map(|line| {
                line.chars()
                    .take(SHOWN)
                    .map(|c| if c.is_control() && c != '\t' { '�' } else { c })
                    .collect()
            });
    }
}

pub(super) fn to_u32(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
