//! One check of a service, once.

use std::{error::Error, io, net::SocketAddr, pin::pin, time::Duration};

use http_body_util::{BodyExt, Empty};
use hyper::{Request, StatusCode, Uri, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use crate::config::CheckKind;

/// Most that is read of an answer's head, and of its body, in bytes.
pub(super) const READ_MAX: usize = 64 * 1024;

/// Why a service doesn't count as working.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("no connection: {0}")]
    Connect(io::Error),
    #[error("no answer that makes sense: {0}{cause}", cause = cause(.0))]
    Http(#[from] hyper::Error),
    #[error("answered {0}")]
    Status(StatusCode),
    #[error("took longer than {} ms", .0.as_millis())]
    Timeout(Duration),
}

/// Asks a service. It may take `limit` in all. The text says what it answered.
pub(super) async fn ask(kind: &CheckKind, limit: Duration) -> Result<String, Failure> {
    let answer = async {
        match kind {
            CheckKind::Tcp(address) => tcp(*address).await,
            CheckKind::Http(url) => http(url).await,
        }
    };
    timeout(limit, answer)
        .await
        .unwrap_or(Err(Failure::Timeout(limit)))
}

async fn tcp(address: SocketAddr) -> Result<String, Failure> {
    TcpStream::connect(address)
        .await
        .map_err(Failure::Connect)?;
    Ok("accepted a connection".to_owned())
}

/// A GET that is to be answered with 2xx or 3xx. A body that ends too early is a failure; one beyond [`READ_MAX`] is not
/// read to its end.
async fn http(url: &Uri) -> Result<String, Failure> {
    // The configuration lets no URL without a host pass.
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let stream = TcpStream::connect((host, url.port_u16().unwrap_or(80)))
        .await
        .map_err(Failure::Connect)?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(READ_MAX)
        .handshake(TokioIo::new(stream))
        .await?;
    let request = request(url);
    let mut exchange = pin!(async move {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        if !status.is_success() && !status.is_redirection() {
            return Err(Failure::Status(status));
        }
        let (mut body, mut read) = (answer.into_body(), 0);
        while read < READ_MAX {
            let Some(frame) = body.frame().await.transpose()? else {
                break;
            };
            read += frame.data_ref().map_or(0, Bytes::len);
        }
        Ok(format!("answered {status}"))
    });
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        // The connection is over: what the exchange makes of what came is already there.
        _ = connection => exchange.await,
    }
}

/// As HTTP/1.1 wants it (RFC 9112 section 3.2): the path in the request line, the authority in `Host`.
fn request(url: &Uri) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse().unwrap_or_default();
    let headers = request.headers_mut();
    if let Some(Ok(host)) = url.authority().map(|authority| authority.as_str().parse()) {
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

/// What hyper's own message leaves out.
fn cause(error: &hyper::Error) -> String {
    error
        .source()
        .map_or_else(String::new, |cause| format!(": {cause}"))
}
