//! `export` and `import`: a project as one file, between databases.

use std::{
    fs::File,
    io::{BufReader, Write},
    path::{Path, PathBuf},
};

use dandori::{ImportOptions, ProjectId};

use super::{
    args::Common,
    exit::{Exit, Failure},
    target::Target,
};

/// Writes an archive to a file, or to standard output.
pub(super) async fn export(
    common: &Common,
    id: &str,
    to: Option<&Path>,
) -> Result<Exit, Failure> {
    let target = common.target(id).await?;
    let Some(to) = to.filter(|to| *to != Path::new("-")) else {
        write(&target, std::io::stdout()).await?;
        return Ok(Exit::Succeeded);
    };
    // Whole, or not under this name.
    let part = PathBuf::from(format!("{}.part", to.display()));
    let file = File::create(&part).map_err(|error| no_file(&part, &error))?;
    let written = write(&target, std::io::BufWriter::new(file)).await;
    let moved = written.and_then(|bytes| {
        std::fs::rename(&part, to).map_err(|error| no_file(to, &error))?;
        Ok(bytes)
    });
    match moved {
        Ok(bytes) => {
            anstream::eprintln!("{bytes} bytes in {}", to.display());
            Ok(Exit::Succeeded)
        }
        Err(failure) => {
            let _ = std::fs::remove_file(&part);
            Err(failure)
        }
    }
}

async fn write(
    target: &Target,
    mut to: impl Write + Send + 'static,
) -> Result<u64, Failure> {
    match target {
        Target::Here(project) => Ok(project.export(to).await?),
        Target::There(remote) => {
            let mut bytes = 0;
            let mut answer = remote.bytes(&["export"]).await?;
            let unwritten = |error: std::io::Error| {
                Failure::usage(error.to_string(), "is it full?")
            };
            while let Some(chunk) = answer.chunk().await.map_err(|_| broken_off())? {
                to.write_all(&chunk).map_err(unwritten)?;
                bytes += chunk.len() as u64;
            }
            to.flush().map_err(unwritten)?;
            Ok(bytes)
        }
    }
}

/// Records a project from an archive; prints its id.
pub(super) async fn import(
    common: &Common,
    file: &Path,
    new_id: bool,
) -> Result<Exit, Failure> {
    let standard = file == Path::new("-");
    let (id, name, state): (ProjectId, String, String) = match common.remote()? {
        Some(server) => {
            let read = match standard {
                true => std::io::read_to_string(std::io::stdin()),
                false => std::fs::read_to_string(file),
            };
            let archive = read.map_err(|error| no_file(file, &error))?;
            let view = server.import(archive, new_id).await?;
            (view.id, view.name, view.state.to_string())
        }
        None => {
            let options = ImportOptions { fresh_id: new_id, author: None };
            let engine = common.connect().await?;
            let handle = match standard {
                true => {
                    engine.import(BufReader::new(std::io::stdin()), options).await?
                }
                false => {
                    let opened =
                        File::open(file).map_err(|error| no_file(file, &error))?;
                    engine.import(BufReader::new(opened), options).await?
                }
            };
            let row = handle.row().await?;
            (row.id, row.name, row.state.to_string())
        }
    };
    if common.json {
        out!("{}", serde_json::json!({ "id": id, "name": name, "state": state }));
    } else {
        out!("{id}");
        anstream::eprintln!(
            "{} is {state}: `dandori replay {id}` or `dandori resume {id}` goes on",
            super::text::one_line(&name)
        );
    }
    Ok(Exit::Succeeded)
}

fn no_file(path: &Path, error: &std::io::Error) -> Failure {
    Failure::usage(format!("{}: {error}", path.display()), "name another file")
}

fn broken_off() -> Failure {
    Failure::Told {
        exit: Exit::Unreachable,
        code: "server_away".to_owned(),
        message: "the server broke the archive off".to_owned(),
        help: "it may have been changed meanwhile: export it again".to_owned(),
        found: vec![],
    }
}
