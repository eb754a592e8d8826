//! HTTP/1.1: one GET, one answer.

use std::io;
use std::pin::pin;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, Uri, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::{Failure, READ_MAX, Trust};
use crate::config::Host;

/// An answer with 2xx or 3xx.
pub struct Answer {
    /// Its status, as in `200 OK`.
    pub status: String,
    /// Its body, which is not read on beyond [`READ_MAX`].
    pub body: Vec<u8>,
}

/// Gets `url`, with `host` in place of its host if there is one. `trust` is for `https`.
///
/// # Errors
///
/// No connection, no HTTP, not all of the body, or another status than 2xx and 3xx.
pub async fn get(url: &Uri, host: Option<&Host>, trust: &mut Trust) -> Result<Answer, Failure> {
    // The configuration lets no URL without a host pass.
    let authority = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let secure = url.scheme_str() == Some("https");
    let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let stream = TcpStream::connect((authority, port))
        .await
        .map_err(Failure::Connect)?;
    let request = request(url, host);
    if secure {
        let name = match host {
            Some(host) => ServerName::DnsName(host.name().clone()),
            None => ServerName::try_from(authority.to_owned())
                .map_err(|error| Failure::Tls(io::Error::other(error)))?,
        };
        exchange(trust.connect(stream, name).await?, request).await
    } else {
        exchange(stream, request).await
    }
}

async fn exchange<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<Answer, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(READ_MAX)
        .handshake(TokioIo::new(stream))
        .await?;
    let mut exchange = pin!(async move {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        if !status.is_success() && !status.is_redirection() {
            return Err(Failure::Status(status));
        }
        let (mut frames, mut body) = (answer.into_body(), Vec::new());
        while body.len() < READ_MAX {
            let Some(frame) = frames.frame().await.transpose()? else {
                break;
            };
            body.extend(frame.into_data().unwrap_or_default());
        }
        Ok(Answer {
            status: status.to_string(),
            body,
        })
    });
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        // The connection is over: what the exchange makes of what came is already there.
        _ = connection => exchange.await,
    }
}

/// As HTTP/1.1 wants it (RFC 9112 section 3.2): the path in the request line, the authority in `Host`.
fn request(url: &Uri, host: Option<&Host>) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse().unwrap_or_default();
    let host = match host {
        Some(host) => host.name().as_ref(),
        None => url.authority().map_or("", |authority| authority.as_str()),
    };
    let headers = request.headers_mut();
    if let Ok(host) = host.parse() {
        headers.insert(header::HOST, host);
    }
    headers.insert(
        header::USER_AGENT,
        header::HeaderValue::from_static("balancer"),
    );
    headers.insert(
        header::CONNECTION,
        header::HeaderValue::from_static("close"),
    );
    request
}
