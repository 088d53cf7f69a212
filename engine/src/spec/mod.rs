//! The project document: from text to a plan, with diagnostics that name the place.
//!
//! Owns reading YAML and JSON, the keys of the document, templates and defaults.
//! Does not run anything. Invariant: a document that loads has a valid plan, and one
//! that does not has at least one diagnostic with a remedy.

mod builder;
mod canvas;
mod check;
mod compile;
mod diagnostic;
mod document;
mod dollar;
mod duration;
mod files;
mod fits;
mod for_each;
mod graph;
mod grow;
mod handlers;
mod inputs;
mod json;
mod known;
pub(crate) mod names;
mod number;
mod positions;
mod project;
mod reader;
mod source;
mod tasks;
mod template;
mod treatment;
mod tree;
mod upstream;
mod yaml;

/// The JSON Schema of the project document.
pub const SCHEMA: &str = include_str!("schema.json");

pub(crate) use self::{
    builder::{Builder, Guard},
    grow::{expansion, members},
    names::fault,
};
pub use self::{
    compile::{CompileOptions, Compiled},
    diagnostic::{Diagnostic, Severity},
    document::{
        Defaults, Document, Input, InputType, Task, Template, Timeout, Treatment,
    },
    duration::{format_duration, parse_duration},
    names::MAX_NAME,
    source::{Format, Limits, Source},
    tree::{Path, Segment, Tree},
};
use self::{project::read_document, reader::Findings};

impl Document {
    /// Understands a tree.
    ///
    /// # Errors
    /// All findings with their paths.
    pub fn from_tree(tree: &Tree) -> Result<Self, Vec<(Diagnostic, Path)>> {
        let mut findings = Findings::default();
        let document = read_document(tree, &mut findings);
        if findings.has_errors() { Err(findings.into_found()) } else { Ok(document) }
    }

    /// Compiles the document.
    ///
    /// # Errors
    /// All findings with their paths.
    pub fn compile(
        &self,
        options: &CompileOptions<'_>,
    ) -> Result<Compiled, Vec<(Diagnostic, Path)>> {
        let mut findings = Findings::default();
        match compile::compile(self, options, &mut findings) {
            Some(mut compiled) if !findings.has_errors() => {
                compiled.files = std::mem::take(&mut findings.files);
                compiled.warnings = findings.into_found();
                Ok(compiled)
            }
            _ => Err(findings.into_found()),
        }
    }
}

/// Reads an expression of a canvas from JSON.
pub(crate) fn read_canvas(text: &str) -> Result<crate::Canvas, Vec<Diagnostic>> {
    let source = Source::new(None, text, Format::Json);
    let tree = source.read(&Limits::default())?;
    let mut findings = Findings::default();
    match canvas::read(&tree, &reader::At::ROOT, 1, &mut findings) {
        Some(canvas) if !findings.has_errors() => Ok(canvas),
        _ => Err(source.place_all(findings.into_found())),
    }
}

/// Reads, understands and compiles a document.
///
/// # Errors
/// All findings, placed in the text.
pub fn load(
    source: &Source,
    limits: &Limits,
    options: &CompileOptions<'_>,
) -> Result<Loaded, Vec<Diagnostic>> {
    let tree = source.read(limits)?;
    let options = CompileOptions { max_tasks: Some(limits.tasks), ..*options };
    let mut compiled = Document::from_tree(&tree)
        .and_then(|document| document.compile(&options))
        .map_err(|found| source.place_all(found))?;
    let warnings = source.place_all(std::mem::take(&mut compiled.warnings));
    Ok(Loaded { compiled, warnings })
}

/// A document that loaded.
#[derive(Debug)]
pub struct Loaded {
    /// What is submitted.
    pub compiled: Compiled,
    /// What is probably not meant, placed in the text.
    pub warnings: Vec<Diagnostic>,
}
