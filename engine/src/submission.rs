//! [`Project`]: what is submitted, from a document, its text, or code.

use std::{collections::BTreeMap, path::PathBuf};

use crate::{
    Canvas, Engine, Error, Kinds,
    spec::{
        self, CompileOptions, Compiled, Diagnostic, Document, Limits, Path, Source,
        Tree,
    },
};

/// A project to be submitted: a document and the values of its inputs.
#[derive(Clone, Debug, Default)]
pub struct Project {
    document: Document,
    inputs: Vec<(String, Tree)>,
    folder: Option<PathBuf>,
    files: BTreeMap<String, String>,
    source: Option<Source>,
}

impl Project {
    /// A project without tasks yet.
    pub fn named(name: impl Into<String>) -> Self {
        Self::from_document(Document::named(name))
    }

    /// A project from a document.
    pub fn from_document(document: Document) -> Self {
        Self { document, ..Self::default() }
    }

    /// A project from the text of a document.
    ///
    /// # Errors
    /// [`Error::Invalid`] with all findings.
    pub fn from_source(source: Source) -> Result<Self, Error> {
        Self::from_source_within(source, &Limits::default())
    }

    /// A project from the text of a document, within limits.
    ///
    /// # Errors
    /// [`Error::Invalid`] with all findings.
    pub fn from_source_within(source: Source, limits: &Limits) -> Result<Self, Error> {
        let tree = source.read(limits).map_err(Error::Invalid)?;
        let document = Document::from_tree(&tree)
            .map_err(|found| Error::Invalid(source.place_all(found)))?;
        Ok(Self { source: Some(source), ..Self::from_document(document) })
    }

    /// A project from YAML.
    ///
    /// # Errors
    /// [`Error::Invalid`] with all findings.
    pub fn from_yaml(text: &str) -> Result<Self, Error> {
        Self::from_source(Source::new(None, text, spec::Format::Yaml))
    }

    /// A project from JSON.
    ///
    /// # Errors
    /// [`Error::Invalid`] with all findings.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        Self::from_source(Source::new(None, text, spec::Format::Json))
    }

    /// Adds a task.
    #[must_use]
    pub fn task(mut self, task: spec::Task) -> Self {
        self.document.tasks.push(task);
        self
    }

    /// A project that is a typed canvas, whose first steps wait for nothing.
    pub fn new<Out>(
        name: impl Into<String>,
        flow: crate::canvas::Flow<(), Out>,
    ) -> Self {
        Self::from_canvas(name, flow.into_canvas())
    }

    /// A project that is a canvas.
    pub fn from_canvas(name: impl Into<String>, canvas: Canvas) -> Self {
        let mut project = Self::named(name);
        project.document.canvas = Some(canvas);
        project
    }

    /// Adds an incoming argument of a canvas by position.
    #[must_use]
    pub fn arg(mut self, value: &serde_json::Value) -> Self {
        self.document.args.push(Tree::from(value));
        self
    }

    /// Adds an incoming argument of a canvas by name.
    #[must_use]
    pub fn kwarg(mut self, name: impl Into<String>, value: &serde_json::Value) -> Self {
        self.document.kwargs.push((name.into(), Tree::from(value)));
        self
    }

    /// Sets the value of an input; goes over the document's own.
    #[must_use]
    pub fn input(mut self, name: impl Into<String>, value: &serde_json::Value) -> Self {
        self.inputs.push((name.into(), Tree::from(value)));
        self
    }

    /// Sets the value of an input from JSON, read as strictly as a document.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a number that would lose digits, a key that is there twice, and
    /// what else a document may not hold.
    pub fn input_json(
        mut self,
        name: impl Into<String>,
        json: &str,
    ) -> Result<Self, Error> {
        let source = Source::new(None, json, spec::Format::Json);
        let value = source.read(&Limits::default()).map_err(Error::Invalid)?;
        self.inputs.push((name.into(), value));
        Ok(self)
    }

    /// Records the same submission only once.
    #[must_use]
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.document.idempotency_key = Some(key.into());
        self
    }

    /// The folder that `file('…')` reads from.
    #[must_use]
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Gives a text along that `file('name')` stands for, whatever is in the folder.
    #[must_use]
    pub fn file(mut self, name: impl Into<String>, text: impl Into<String>) -> Self {
        self.files.insert(name.into(), text.into());
        self
    }

    /// The document.
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// The text of the document, where it was read from one.
    pub fn text(&self) -> Option<&str> {
        self.source.as_ref().map(Source::text)
    }

    /// The document, to be changed.
    pub fn document_mut(&mut self) -> &mut Document {
        &mut self.document
    }

    /// Compiles the project; findings are placed in the text where there is one.
    ///
    /// # Errors
    /// [`Error::Invalid`] with all findings.
    pub fn compile(
        &self,
        kinds: Option<&Kinds>,
    ) -> Result<(Compiled, Vec<Diagnostic>), Error> {
        self.compile_among(kinds, false)
    }

    /// Compiles the project for a database where other workers may have other kinds.
    pub(crate) fn compile_among(
        &self,
        kinds: Option<&Kinds>,
        foreign_kinds: bool,
    ) -> Result<(Compiled, Vec<Diagnostic>), Error> {
        let options = CompileOptions {
            kinds,
            foreign_kinds,
            inputs: &self.inputs,
            folder: self.folder.as_deref(),
            files: Some(&self.files),
            max_tasks: None,
        };
        let place = |found: Vec<(Diagnostic, Path)>| match &self.source {
            Some(source) => source.place_all(found),
            None => found.into_iter().map(|(diagnostic, _)| diagnostic).collect(),
        };
        match self.document.compile(&options) {
            Ok(mut compiled) => {
                let warnings = place(std::mem::take(&mut compiled.warnings));
                Ok((compiled, warnings))
            }
            Err(found) => Err(Error::Invalid(place(found))),
        }
    }
}

impl Engine {
    /// Compiles a project as [`Engine::submit`] does.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn compile(&self, project: &Project) -> Result<Compiled, Error> {
        Ok(self.compile_with_warnings(project)?.0)
    }

    /// Compiles a project as [`Engine::submit`] does, and tells what is probably not meant.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn compile_with_warnings(
        &self,
        project: &Project,
    ) -> Result<(Compiled, Vec<Diagnostic>), Error> {
        let executes = self.inner().worker.is_some();
        let kinds = executes.then_some(self.kinds());
        project.compile_among(kinds, self.inner().spreads)
    }
}
