//! `token`: who may ask over HTTP.

use clap::Subcommand;
use dandori::{Clock, Engine, Error, Timestamp, store::TokenRow};
use serde::{Deserialize, Serialize};

use super::{
    args::Common,
    exit::{Exit, Failure},
    server::{Server, bad_answer},
    text::{ago, cut, one_line, print_table},
};
use crate::http::{Role, fresh_token, is_token_name, tokens::new_row};

#[derive(Debug, Subcommand)]
pub(super) enum Token {
    /// Make a token: its secret is printed once and kept nowhere.
    Create {
        /// Its name, for people.
        name: String,
        /// What it may do: `viewer` looks, `operator` submits and steers, `admin` makes tokens.
        #[arg(long, value_name = "viewer|operator|admin", default_value = "operator")]
        role: String,
    },
    /// List the tokens.
    List,
    /// Revoke a token.
    Revoke {
        /// Its id, or its name where only one valid token has it.
        // Not `token`: that is the option which every command has.
        #[arg(value_name = "TOKEN")]
        which: String,
    },
}

/// A token, with its secret only where it was just made.
#[derive(Deserialize, Serialize)]
struct Shown {
    id: String,
    name: String,
    role: String,
    created_at: Timestamp,
    revoked_at: Option<Timestamp>,
    token: Option<String>,
}

impl Shown {
    fn of(row: TokenRow, token: Option<String>) -> Self {
        let TokenRow { id, name, role, created_at, revoked_at } = row;
        Self { id: id.to_string(), name, role, created_at, revoked_at, token }
    }
}

/// Where tokens are kept: in a database, or in that of a server.
enum Keeper {
    Here(Engine),
    There(Server),
}

impl Keeper {
    async fn of(common: &Common) -> Result<Self, Failure> {
        Ok(match common.remote()? {
            Some(server) => Self::There(server),
            // The first token may be made before anything else.
            None => Self::Here(common.builder()?.connect().await?),
        })
    }

    async fn make(&self, name: &str, role: Role) -> Result<Shown, Failure> {
        match self {
            Self::There(server) => {
                let new = serde_json::json!({ "name": name, "role": role });
                server.send(&["tokens"], &new).await
            }
            Self::Here(engine) => {
                let (secret, hash) = fresh_token();
                let row = new_row(name, role, engine.now());
                let put = engine.store().put_token(row.clone(), hash, None).await;
                put.map_err(Error::from)?;
                Ok(Shown::of(row, Some(secret)))
            }
        }
    }

    async fn all(&self) -> Result<Vec<Shown>, Failure> {
        #[derive(Deserialize)]
        struct Answer {
            tokens: Vec<Shown>,
        }
        match self {
            Self::There(server) => {
                Ok(server.get::<Answer>(&["tokens"], &[]).await?.tokens)
            }
            Self::Here(engine) => {
                let rows = engine.store().tokens().await.map_err(Error::from)?;
                Ok(rows.into_iter().map(|row| Shown::of(row, None)).collect())
            }
        }
    }

    async fn revoke(&self, id: &str) -> Result<(), Failure> {
        match self {
            Self::There(server) => server.delete(&["tokens", id]).await,
            Self::Here(engine) => {
                let id = id.parse().unwrap_or_default();
                let revoked = engine.store().revoke_token(id, None, engine.now());
                revoked.await.map_err(Error::from)?;
                Ok(())
            }
        }
    }
}

pub(super) async fn token(common: &Common, token: Token) -> Result<Exit, Failure> {
    match token {
        Token::Create { name, role } => create(common, &name, &role).await,
        Token::List => list(common).await,
        Token::Revoke { which } => revoke(common, which).await,
    }
}

async fn create(common: &Common, name: &str, role: &str) -> Result<Exit, Failure> {
    let Some(role) = Role::parse(role) else {
        return Err(wrong(format!("there is no role `{}`", one_line(role))));
    };
    if !is_token_name(name) {
        let what = "a name has 1 to 100 bytes on one line, and is not reserved";
        return Err(wrong(what.to_owned()));
    }
    let made = Keeper::of(common).await?.make(name, role).await?;
    if common.json {
        out!("{}", serde_json::json!(made));
        return Ok(Exit::Succeeded);
    }
    let Some(secret) = made.token else {
        return Err(bad_answer("it holds no secret"));
    };
    out!("{}", one_line(&secret));
    anstream::eprintln!("it is printed once: keep it");
    Ok(Exit::Succeeded)
}

async fn list(common: &Common) -> Result<Exit, Failure> {
    let tokens = Keeper::of(common).await?.all().await?;
    if common.json {
        tokens.iter().for_each(|token| out!("{}", serde_json::json!(token)));
        return Ok(Exit::Succeeded);
    }
    let now = Clock::system().now();
    let rows = tokens.into_iter().map(|token| {
        [
            cut(&one_line(&token.id), 40),
            cut(&one_line(&token.name), 40),
            cut(&one_line(&token.role), 40),
            ago(token.created_at, now),
            token.revoked_at.map_or(String::new(), |at| ago(at, now)),
        ]
    });
    print_table(["ID", "NAME", "ROLE", "MADE", "REVOKED"], rows);
    Ok(Exit::Succeeded)
}

async fn revoke(common: &Common, wanted: String) -> Result<Exit, Failure> {
    let keeper = Keeper::of(common).await?;
    let tokens = keeper.all().await?;
    let valid = tokens.iter().filter(|token| token.revoked_at.is_none());
    let mut found = valid.filter(|token| token.id == wanted || token.name == wanted);
    let (Some(token), None) = (found.next(), found.next()) else {
        let reason = "no valid token, or several, have this id or name";
        return Err(Error::NotFound { wanted, reason }.into());
    };
    keeper.revoke(&token.id).await?;
    anstream::eprintln!("revoked {}", one_line(&token.id));
    Ok(Exit::Succeeded)
}

fn wrong(message: String) -> Failure {
    Failure::usage(message, "see `dandori token create --help`")
}
