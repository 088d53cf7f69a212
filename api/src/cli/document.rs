//! Commands about documents: reading them, `validate`, `schema`.

use std::{collections::BTreeMap, io::Read as _, path::Path};

use dandori::{
    Error, Kinds, Project,
    spec::{Diagnostic, InputType, Source},
};
use dandori_steps::Settings;
use serde::{Deserialize, Serialize};

use super::{
    args::{Common, Validate},
    exit::{Exit, Failure, print_diagnostics},
    server::Submission,
};

/// Reads a document from a file or standard input, with the values of its inputs.
pub(super) fn read(file: &Path, inputs: &[String]) -> Result<Project, Failure> {
    let (name, bytes) = if file == Path::new("-") {
        let mut bytes = vec![];
        let read = std::io::stdin().lock().read_to_end(&mut bytes);
        read.map_err(|error| unreadable("standard input", &error))?;
        ("standard input".to_owned(), bytes)
    } else {
        let name = file.display().to_string();
        let bytes = std::fs::read(file).map_err(|error| unreadable(&name, &error))?;
        (name, bytes)
    };
    let source = Source::from_bytes(Some(&name), bytes, None)
        .map_err(|found| Failure::Engine(Error::Invalid(vec![found])))?;
    let mut project = Project::from_source(source)?;
    if let Some(folder) = file.parent().filter(|_| file != Path::new("-")) {
        let folder =
            if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        project = project.folder(folder);
    }
    if project.document().name.is_none()
        && let Some(stem) = file.file_stem().and_then(|stem| stem.to_str())
        && stem != "-"
    {
        let clean = stem.chars().filter(|c| !c.is_control()).take(200);
        project.document_mut().name = Some(clean.collect());
    }
    for (name, value) in &input_values(&project, inputs)? {
        project = project.input(*name, value);
    }
    Ok(project)
}

/// The values of inputs from the command line; of those given twice the last one.
pub(super) fn input_values<'i>(
    project: &Project,
    inputs: &'i [String],
) -> Result<BTreeMap<&'i str, serde_json::Value>, Failure> {
    let read = |input: &'i String| {
        let Some((name, text)) = input.split_once('=') else {
            let message = format!("`--input {input}` has no `=`");
            return Err(Failure::usage(message, "write --input name=value"));
        };
        Ok((name, input_value(project, name, text)?))
    };
    inputs.iter().map(read).collect()
}

/// A value from the command line, read by the declared type of the input.
fn input_value(
    project: &Project,
    name: &str,
    text: &str,
) -> Result<serde_json::Value, Failure> {
    let declared = project.document().inputs.iter().find(|input| input.name == name);
    let kind = declared.map_or(InputType::Any, |input| input.kind);
    let as_text = || serde_json::Value::String(text.to_owned());
    match kind {
        InputType::String => Ok(as_text()),
        InputType::Any => Ok(serde_json::from_str(text).unwrap_or_else(|_| as_text())),
        other => serde_json::from_str(text).map_err(|_| {
            let message =
                format!("`{name}` must be of type {}, not `{text}`", other.as_str());
            Failure::usage(message, "write the value as JSON, in quotes for the shell")
        }),
    }
}

fn unreadable(name: &str, error: &std::io::Error) -> Failure {
    let exit = match error.kind() {
        std::io::ErrorKind::NotFound => Exit::NotFound,
        _ => Exit::Unreachable,
    };
    Failure::Own {
        exit,
        code: "unreadable",
        message: format!("{name}: {error}"),
        help: "name a YAML or JSON document".to_owned(),
    }
}

/// The kinds of this binary, for checks: nothing is called.
pub(super) fn all_kinds() -> Kinds {
    let mut kinds = Kinds::default();
    let settings = Settings::from_env();
    for handler in
        dandori_steps::kinds(&settings).unwrap_or_else(|_| dandori_steps::basic_kinds())
    {
        kinds.insert(handler);
    }
    kinds
}

#[derive(Default, Deserialize, Serialize)]
struct Validation {
    valid: bool,
    diagnostics: Vec<Diagnostic>,
    // A server tells nothing more of a document that is not valid.
    #[serde(flatten)]
    figures: Figures,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct Figures {
    tasks: usize,
    steps: usize,
    edges: usize,
    depth: u32,
    width: usize,
    hash: Option<String>,
}

/// Looks at a document: with the kinds of a server, or of this program.
async fn look(common: &Common, args: &Validate) -> Result<Validation, Failure> {
    let project = read(&args.file, &args.input)?;
    if let Some(server) = common.remote()? {
        let submission = Submission::of(&project, &args.input)?;
        return server.send(&["projects", "validate"], &submission).await;
    }
    let (compiled, diagnostics) = project.compile(Some(&all_kinds()))?;
    let figures = compiled.plan.figures();
    let figures = Figures {
        tasks: compiled.tasks,
        steps: figures.steps,
        edges: figures.edges,
        depth: figures.depth,
        width: figures.width,
        hash: Some(compiled.plan.hash_hex()),
    };
    Ok(Validation { valid: true, diagnostics, figures })
}

pub(super) async fn validate(
    common: &Common,
    args: &Validate,
) -> Result<Exit, Failure> {
    let validation = match look(common, args).await {
        Err(Failure::Engine(Error::Invalid(diagnostics))) => {
            Validation { diagnostics, ..Validation::default() }
        }
        looked => looked?,
    };
    if common.json {
        let text = serde_json::to_string(&validation).unwrap_or_default();
        out!("{text}");
    } else {
        print_diagnostics(&validation.diagnostics);
        if validation.valid {
            let Figures { tasks, steps, edges, depth, width, .. } = validation.figures;
            out!(
                "valid: {tasks} tasks, {steps} steps, {edges} edges, {depth} levels, at most {width} at once"
            );
        }
    }
    Ok(if validation.valid { Exit::Succeeded } else { Exit::Invalid })
}

#[expect(clippy::unnecessary_wraps, reason = "the same shape as every command")]
pub(super) fn schema() -> Result<Exit, Failure> {
    out!("{}", dandori::spec::SCHEMA.trim_end());
    Ok(Exit::Succeeded)
}
