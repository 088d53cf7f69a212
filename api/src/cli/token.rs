//! `token`: who may ask over HTTP.

use dandori::{Clock, Error, store::TokenRow};

use super::{
    args::{Common, Token},
    exit::{Exit, Failure},
    text::{ago, cut, one_line, print_data, table},
};
use crate::http::{Role, fresh_token, is_token_name, tokens::new_row};

pub(super) async fn token(common: &Common, token: Token) -> Result<Exit, Failure> {
    // The first token may be made before anything else.
    let engine = common.builder()?.connect().await?;
    let store = engine.store();
    match token {
        Token::Create { name, role } => {
            let Some(role) = Role::parse(&role) else {
                return Err(wrong(format!("there is no role `{}`", one_line(&role))));
            };
            if !is_token_name(&name) {
                let what = "a name has 1 to 100 bytes on one line, and is not reserved";
                return Err(wrong(what.to_owned()));
            }
            let (secret, hash) = fresh_token();
            let row = new_row(&name, role, engine.now());
            store.put_token(row.clone(), hash, None).await.map_err(Error::from)?;
            match common.json {
                true => out!("{}", shown(&row, Some(&secret))),
                false => {
                    out!("{secret}");
                    anstream::eprintln!("it is printed once: keep it");
                }
            }
        }
        Token::List => {
            let rows = store.tokens().await.map_err(Error::from)?;
            if common.json {
                rows.iter().for_each(|row| out!("{}", shown(row, None)));
                return Ok(Exit::Succeeded);
            }
            let now = Clock::system().now();
            let mut lines = vec![
                ["ID", "NAME", "ROLE", "MADE", "REVOKED"].map(str::to_owned).to_vec(),
            ];
            for row in &rows {
                lines.push(vec![
                    row.id.to_string(),
                    cut(&one_line(&row.name), 40),
                    row.role.clone(),
                    ago(row.created_at, now),
                    row.revoked_at.map_or(String::new(), |at| ago(at, now)),
                ]);
            }
            print_data(&table(&lines), false);
        }
        Token::Revoke { token } => {
            let rows = store.tokens().await.map_err(Error::from)?;
            let valid = rows.iter().filter(|row| row.revoked_at.is_none());
            let fits =
                |row: &&TokenRow| row.id.to_string() == token || row.name == token;
            let mut found = valid.filter(fits);
            let (Some(row), None) = (found.next(), found.next()) else {
                let reason = "no valid token, or several, have this id or name";
                return Err(Error::NotFound { wanted: token, reason }.into());
            };
            let now = engine.now();
            store.revoke_token(row.id, None, now).await.map_err(Error::from)?;
            anstream::eprintln!("revoked {}", row.id);
        }
    }
    Ok(Exit::Succeeded)
}

fn shown(row: &TokenRow, secret: Option<&str>) -> serde_json::Value {
    serde_json::json!({
        "id": row.id.to_string(), "name": row.name, "role": row.role,
        "created_at": row.created_at, "revoked_at": row.revoked_at, "token": secret,
    })
}

fn wrong(message: String) -> Failure {
    Failure::Own {
        exit: Exit::Usage,
        code: "usage",
        message,
        help: "see `dandori token create --help`".to_owned(),
    }
}
