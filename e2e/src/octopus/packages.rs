//! The built-in package repository: files below `/repository`.
//!
//! The body is the file itself, named by the query's `fileName`; the real server takes a form.

use std::{collections::HashMap, io, path::PathBuf, sync::Arc};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Path, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::{
    fs,
    io::{AsyncReadExt, AsyncWriteExt},
};

use super::{
    api::ApiError,
    files,
    server::{Server, guid},
};

/// How much of a file is in memory at once, bytes.
const PIECE: usize = 64 * 1024;

/// Stores a package. One that exists is replaced only with `replace=true`.
pub(super) async fn post(
    State(server): State<Arc<Server>>,
    Path(space): Path<String>,
    Query(query): Query<HashMap<String, String>>,
    body: Body,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let (folder, name) = place(&server, &space, &query)?;
    let target = folder.join(&name);
    if query.get("replace").map(String::as_str) != Some("true") && fs::try_exists(&target).await? {
        return Err(ApiError::new(StatusCode::CONFLICT, format!("The package {name} exists.")));
    }
    fs::create_dir_all(&folder).await?;
    // Under another name until it is whole: nobody reads half a package, not even after a crash.
    let part = folder.join(format!(".{}.part", guid()?));
    let stored = store(&part, body).await;
    let result = match stored {
        Ok(size) => fs::rename(&part, &target).await.map(|()| size),
        Err(error) => Err(error),
    };
    match result {
        Ok(size) => {
            let body = json!({ "FileName": name, "SpaceId": space, "PackageSizeBytes": size });
            Ok((StatusCode::CREATED, Json(body)))
        }
        Err(error) => {
            let _ = fs::remove_file(&part).await;
            Err(error.into())
        }
    }
}

async fn store(part: &std::path::Path, body: Body) -> io::Result<u64> {
    let mut file = fs::File::create(part).await?;
    let (mut size, mut pieces) = (0, body.into_data_stream());
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(io::Error::other)?;
        file.write_all(&piece).await?;
        size += u64::try_from(piece.len()).unwrap_or(u64::MAX);
    }
    file.sync_all().await?;
    Ok(size)
}

/// Gives a package back.
pub(super) async fn get(
    State(server): State<Arc<Server>>,
    Path(space): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Response, ApiError> {
    let (folder, name) = place(&server, &space, &query)?;
    let file = match fs::File::open(folder.join(&name)).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(ApiError::not_found(format!("There is no package {name}.")));
        }
        file => file?,
    };
    let size = file.metadata().await?.len();
    let pieces = futures::stream::try_unfold(file, |mut file| async move {
        let mut piece = vec![0; PIECE];
        let got = file.read(&mut piece).await?;
        piece.truncate(got);
        Ok::<_, io::Error>((got > 0).then(|| (Bytes::from(piece), file)))
    });
    let kind = (header::CONTENT_TYPE, "application/octet-stream".to_owned());
    let headers = [kind, (header::CONTENT_LENGTH, size.to_string())];
    Ok((headers, Body::from_stream(pieces)).into_response())
}

/// Folder and name; names that would lead elsewhere are refused.
fn place(
    server: &Server,
    space: &str,
    query: &HashMap<String, String>,
) -> Result<(PathBuf, String), ApiError> {
    let plain = |text: &str| {
        let known = |b: u8| b.is_ascii_alphanumeric() || b"-_.+".contains(&b);
        !text.is_empty() && text.len() <= 200 && !text.starts_with('.') && text.bytes().all(known)
    };
    let name = query.get("fileName").cloned().unwrap_or_default();
    if plain(space) && plain(&name) {
        Ok((files::packages(&server.settings, space), name))
    } else {
        Err(ApiError::bad("The query must name a file: ?fileName=Acme.Web.1.0.0.zip"))
    }
}
