//! The cloud's metadata service, which every machine of Azure reaches at an address of its own: what a pod must
//! not reach is only refused if it is there.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
};

use axum::{
    Json, Router,
    http::{HeaderMap, StatusCode},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// Its address.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// Its port.
pub const PORT: u16 = 80;

/// Serves it on a free port of this machine as long as the process lives.
pub async fn serve() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
    Ok(address)
}

/// Says who it is; there is no identity to get here.
async fn answer(headers: HeaderMap) -> (StatusCode, Json<Value>) {
    if headers.get("metadata").is_some_and(|value| value == "true") {
        return (StatusCode::OK, Json(json!({ "compute": { "azEnvironment": "AzurePublicCloud" } })));
    }
    (StatusCode::BAD_REQUEST, Json(json!({ "error": "Bad request. Required metadata header" })))
}
