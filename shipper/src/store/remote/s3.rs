//! What S3 can do and the library's client can't say: locks on objects, and versions of them. Requests of our own, with the
//! library's credentials and signature, over the same [wire](super::wire).

use super::answer::{self, Versions};
use super::judge::Trouble;
use aws_lc_rs::digest::{self, Digest, SHA256};
use object_store::HeaderValue;
use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::client::{HttpClient, HttpRequest, HttpResponse};
use std::time::SystemTime;

/// A bucket, asked directly.
pub(super) struct S3 {
    pub(super) client: HttpClient,
    pub(super) credentials: AwsCredentialProvider,
    pub(super) region: String,
    /// Its URL, without a slash at the end.
    pub(super) bucket: String,
}

/// How long an object is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Retention {
    pub(super) until: SystemTime,
    /// By everybody, the account's owner included.
    pub(super) compliance: bool,
}

/// The digest of a body, which is computed once for all tries.
pub(super) fn digest_of(body: &[u8]) -> Digest {
    digest::digest(&SHA256, body)
}

impl S3 {
    /// Asks for the object `key` (the bucket itself: empty) with this query.
    async fn ask(
        &self,
        method: &str,
        key: &str,
        query: &str,
        headers: &[(&'static str, String)],
        body: (object_store::PutPayload, &Digest),
    ) -> Result<HttpResponse, Trouble> {
        let bad = |what: &str| Trouble::Failed(format!("no request can be made of {what}"));
        let (payload, digest) = body;
        let mut request = HttpRequest::new(payload.into());
        *request.method_mut() = method.parse().map_err(|_| bad(method))?;
        let query = if query.is_empty() { String::new() } else { format!("?{query}") };
        let url = format!("{}/{key}{query}", self.bucket);
        *request.uri_mut() = url.parse().map_err(|_| bad(&url))?;
        if method == "PUT" {
            let sum = base64(digest.as_ref());
            let sum = [("x-amz-sdk-checksum-algorithm", "SHA256".to_owned()), ("x-amz-checksum-sha256", sum)];
            for (name, value) in headers.iter().chain(&sum) {
                let value = HeaderValue::from_str(value).map_err(|_| bad(name))?;
                request.headers_mut().insert(*name, value);
            }
        }
        let credential = self.credentials.get_credential().await?;
        AwsAuthorizer::new(&credential, "s3", &self.region)
            .try_authorize(&mut request, Some(digest.as_ref()))?;
        let response =
            self.client.execute(request).await.map_err(|error| Trouble::Failed(error.to_string()))?;
        match response.status().is_success() {
            true => Ok(response),
            // What it says is in the note.
            false => Err(Trouble::Failed("the server refused".to_owned())),
        }
    }

    async fn plain(&self, method: &str, key: &str, query: &str) -> Result<HttpResponse, Trouble> {
        self.ask(method, key, query, &[], (object_store::PutPayload::default(), &digest_of(b""))).await
    }

    /// Puts an object that can't be deleted, and no earlier be unlocked, by anybody until then.
    pub(super) async fn put(
        &self,
        key: &str,
        body: (object_store::PutPayload, &Digest),
        create: bool,
        until: SystemTime,
    ) -> Result<(), Trouble> {
        let mut headers = vec![
            ("x-amz-object-lock-mode", "COMPLIANCE".to_owned()),
            ("x-amz-object-lock-retain-until-date", date(until)),
        ];
        if create {
            headers.push(("if-none-match", "*".to_owned()));
        }
        self.ask("PUT", key, "", &headers, body).await.map(drop)
    }

    /// Locks a version for longer.
    pub(super) async fn retain(&self, key: &str, version: &str, until: SystemTime) -> Result<(), Trouble> {
        let body = format!(
            "<Retention xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Mode>COMPLIANCE</Mode>\
             <RetainUntilDate>{}</RetainUntilDate></Retention>",
            date(until)
        );
        let query = format!("retention&versionId={}", escaped(version));
        let digest = digest_of(body.as_bytes());
        self.ask("PUT", key, &query, &[], (body.into_bytes().into(), &digest)).await.map(drop)
    }

    /// How long a version is locked; `None`: it is not, or we may not know.
    pub(super) async fn retention(&self, key: &str, version: &str) -> Result<Option<Retention>, Trouble> {
        let response = self.plain("HEAD", key, &format!("versionId={}", escaped(version))).await?;
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let until = header("x-amz-object-lock-retain-until-date")
            .and_then(|text| text.parse::<jiff::Timestamp>().ok())
            .map(SystemTime::from);
        let compliance = header("x-amz-object-lock-mode") == Some("COMPLIANCE");
        Ok(until.map(|until| Retention { until, compliance }))
    }

    /// Deletes a version.
    pub(super) async fn delete(&self, key: &str, version: &str) -> Result<(), Trouble> {
        self.plain("DELETE", key, &format!("versionId={}", escaped(version))).await.map(drop)
    }

    /// A page of the versions of all objects whose names begin so, after what a page before it told.
    pub(super) async fn versions(&self, prefix: &str, after: &(String, String)) -> Result<Versions, Trouble> {
        let mut query = format!("versions&prefix={}", escaped(prefix));
        for (name, value) in [("key-marker", &after.0), ("version-id-marker", &after.1)] {
            if !value.is_empty() {
                query.push_str(&format!("&{name}={}", escaped(value)));
            }
        }
        let response = self.plain("GET", "", &query).await?;
        let bytes = response.into_body().bytes().await;
        let bytes = bytes.map_err(|error| Trouble::Failed(error.to_string()))?;
        answer::versions(&String::from_utf8_lossy(&bytes))
            .ok_or_else(|| Trouble::Failed("the listing of versions can't be read".to_owned()))
    }

    /// Whether objects of the bucket can be locked.
    pub(super) async fn locks(&self) -> Result<bool, Trouble> {
        let response = self.plain("GET", "", "object-lock").await?;
        let bytes = response.into_body().bytes().await;
        let bytes = bytes.map_err(|error| Trouble::Failed(error.to_string()))?;
        Ok(String::from_utf8_lossy(&bytes).contains("<ObjectLockEnabled>Enabled</ObjectLockEnabled>"))
    }
}

/// A time as S3 takes it: whole seconds, rounded up.
pub(super) fn date(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64().ceil();
    jiff::Timestamp::from_second(seconds as i64).unwrap_or(jiff::Timestamp::MAX).to_string()
}

/// A value in a query.
fn escaped(value: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    let one = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    value.bytes().map(one).collect()
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits =
            group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for letter in 0..4 {
            match letter <= group.len() {
                true => text.push(char::from(LETTERS[(bits >> (18 - 6 * letter) & 63) as usize])),
                false => text.push('='),
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_stands_in_a_request_is_written_as_the_standards_have_it() {
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
        assert_eq!(escaped("a/b+c=~"), "a%2Fb%2Bc%3D~");
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_001);
        assert_eq!(date(at), "2023-11-14T22:13:21Z");
    }
}
