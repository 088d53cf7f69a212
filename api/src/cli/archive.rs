//! `export` and `import`: a project as one file, between databases.

use std::{
    fs::File,
    io::{BufReader, Seek as _, Write},
    path::{Path, PathBuf},
};

use dandori::{Error, ImportOptions, ProjectId};

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
    if to.metadata().is_ok_and(|it| !it.is_file()) {
        // A pipe or a device is written to, never replaced.
        let file = File::options().write(true).open(to);
        write(&target, file.map_err(|error| no_file(to, &error))?).await?;
        return Ok(Exit::Succeeded);
    }
    // Whole, or not under this name; and nobody else's file.
    let mut part = to.as_os_str().to_owned();
    part.push(format!(".{}.part", std::process::id()));
    let part = PathBuf::from(part);
    let file = File::options().write(true).create_new(true).open(&part);
    let file = file.map_err(|error| no_file(&part, &error))?;
    let synced = file.try_clone().map_err(|error| no_file(&part, &error))?;
    let written = write(&target, std::io::BufWriter::new(file)).await;
    let moved = written.and_then(|bytes| {
        synced.sync_all().map_err(|error| no_file(&part, &error))?;
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
                let message = format!("it cannot be written: {error}");
                Failure::from(Error::Archive { line: 0, message })
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
                // Whoever writes may be slow: the database is not held for it.
                true => engine.import(spooled()?, options).await?,
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

/// All of standard input, in a file that nobody else sees.
fn spooled() -> Result<BufReader<File>, Failure> {
    let spool = || {
        let mut file = tempfile::tempfile()?;
        std::io::copy(&mut std::io::stdin(), &mut file)?;
        file.rewind()?;
        Ok(BufReader::new(file))
    };
    spool().map_err(|error| no_file(Path::new("-"), &error))
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
