//! Objects behind a network: S3, Azure Blob, Google Cloud Storage.
//!
//! ```text
//! caller's thread ─ block_on ─► [again: tries, pauses, what the server asks] ─► the library ─► [wire: notes] ─► HTTP
//!                                            ▲─────────────── judge ◄─────────────────────────────┘
//! ```
//! The library (`object_store`) knows the protocols, the signatures and where credentials come from; its runtime lives
//! here and nowhere else. It tries everything once: its own tries would repeat a conditional create whose answer was lost
//! and tell the caller that somebody else's object is there, and they do not know Retry-After.
//!
//! - **Conditional creates.** A store that tries again must know its own object: where an earlier try of the *same call*
//!   may have been done, "it is there" is read back, and our bytes are ours (F31). What a caller's later call finds is the
//!   caller's to judge, by lineage (V8): this layer knows bytes only, and a draft that is put again may be sealed anew.
//! - **Tries** are few and short (some seconds): longer waits are the shipping loop's. A wait that the server asks for is
//!   kept by all threads.
//! - **Sizes.** Every object is one request: the largest is a pack ([`PACK_MAX`](crate::vault::limits::PACK_MAX), 262 MiB),
//!   an index page by page or an entry; all stores take 5 GB and more. So there are no multipart uploads, which know no
//!   conditions everywhere, and no parts that a crash could leave.
//! - **Listings** are in the order of bytes at all three; one that is not is an error, not a gap. A server that does not know
//!   where to begin (Azurite; S3 Express) is read from the prefix's beginning: right, and slower.
//! - **Locks.** With a time to lock for, objects of S3 are put under the store's object lock ([`s3`]), which the store must
//!   have. Of a bucket that has it a delete is one of versions, and of those only that are locked no more: a mark over them would
//!   free nothing, and hide from every later collection what is to be deleted. [`oldest`] reads past such marks.
//! - **Integrity.** S3: SHA-256 in the signature and as a checksum. Azure and Google: TLS alone; what is read proves itself.

pub mod answer;
mod connect;
pub mod judge;
pub mod oldest;
mod profile;
mod s3;
mod wire;

use super::location::{Bucket, Options};
use super::tally::Tally;
use super::{Listed, Put, Store, StoreError, StoreErrorKind, check_name, probe};
use crate::{Error, Kind};
pub use connect::Environment;
use connect::{Client, Connected};
use judge::{Failure, Trouble, What};
use object_store::list::PaginatedListOptions;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use s3::S3;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};
use tokio::runtime::Runtime;
use tokio::time::{sleep, timeout};

/// Threads that move bytes; callers' threads do the rest.
const WORKERS: usize = 2;
/// The most tries of a call.
const TRIES: u32 = 4;
/// No further try begins later than this.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause before the second try, at most; each next one is twice as long.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest wait that a server can ask for.
const ASKED_MAX: Duration = Duration::from_secs(60);
/// How long an answer may take,
const ANSWER: Duration = Duration::from_secs(30);
/// and what is sent or received meanwhile, at least, in bytes a second: a twelfth of a line of a megabit.
const RATE: u64 = 10_000;
/// Objects of a listing's page.
const PAGE: usize = 1000;

/// A part of a bucket.
pub struct RemoteStore {
    url: String,
    /// Empty, or with a slash at its end.
    root: String,
    connected: Connected,
    runtime: Runtime,
    /// Nothing is asked before: a server asked for it.
    open_from: Mutex<Instant>,
    tally: Arc<Tally>,
    /// How long what is put is locked.
    lock_for: Option<Duration>,
    /// Whether the bucket's objects can be locked, once that was asked.
    locks: OnceLock<bool>,
}

/// What became of a wish to lock an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// It was locked for long enough.
    Was,
    /// It is now.
    Is,
}

impl RemoteStore {
    /// The store of a bucket, with what the options do not say and the credentials from an environment. Nothing is asked of
    /// it yet.
    ///
    /// # Errors
    /// `Usage` and `Denied` with what is missing.
    pub fn new(bucket: &Bucket, options: &Options, env: &Environment) -> crate::Result<Self> {
        let connected = connect::connect(bucket, options, env)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .thread_name("store")
            .enable_all()
            .build()
            .map_err(|error| Error::caused(Kind::Other, "the store's threads can't be made", error))?;
        let root = match bucket.prefix.as_str() {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        };
        let (url, open_from) = (bucket.url(), Mutex::new(Instant::now()));
        let (tally, lock_for, locks) = (Arc::default(), options.immutable_for, OnceLock::new());
        Ok(Self { url, root, connected, runtime, open_from, tally, lock_for, locks })
    }

    /// The same store; what it is asked is counted there.
    #[must_use]
    pub fn counted_by(self, tally: Arc<Tally>) -> Self {
        Self { tally, ..self }
    }

    fn client(&self) -> &dyn Client {
        &*self.connected.client
    }

    fn path(&self, name: &str) -> Result<Path, StoreError> {
        check_name(name)?;
        Path::parse(format!("{}{name}", self.root))
            .map_err(|_| StoreError::new(StoreErrorKind::BadName, name))
    }

    /// That the store locks objects, if it is to.
    ///
    /// # Errors
    /// `Usage` if it does not, with what to do about it; the store's.
    pub fn check_locks(&self) -> crate::Result<()> {
        if self.lock_for.is_none() {
            return Ok(());
        }
        let refused = |why: &str| {
            let line = format!(
                "{} can't lock objects ({why}), and --immutable-for needs it: make a bucket with object lock (`aws s3api \
                create-bucket --object-lock-enabled-for-bucket`), and leave --immutable-for away for this one",
                self.url
            );
            Err(Error::new(Kind::Usage, line))
        };
        match self.s3().map(|s3| self.again(async || in_time(0, s3.locks()).await).0) {
            Some(Ok(true)) => Ok(()),
            Some(Ok(false)) => refused("its object lock is off"),
            Some(Err(Failure { what: What::Kind(StoreErrorKind::Denied), text, .. })) => {
                let line = format!(
                    "whether {} locks objects may not be asked: --immutable-for needs the rights \
                    s3:GetBucketObjectLockConfiguration and s3:PutObjectRetention ({text})",
                    self.url
                );
                Err(Error::new(Kind::Denied, line))
            }
            Some(Err(failure)) if failure.again => Err(error("", failure).into()),
            Some(Err(failure)) => refused(&failure.text),
            None => refused("it is no s3:// bucket"),
        }
    }

    fn s3(&self) -> Option<&S3> {
        self.connected.s3.as_ref()
    }

    /// S3, for what only it can do.
    fn need_s3(&self, name: &str) -> Result<&S3, StoreError> {
        self.s3().ok_or_else(|| {
            StoreError::remote(StoreErrorKind::Other, name, "only s3:// has versions and locks here")
        })
    }

    /// Whether deletes are of versions: where objects can be locked. Who may not ask deletes as elsewhere.
    fn has_locks(&self, name: &str) -> Result<bool, StoreError> {
        if let Some(known) = self.locks.get() {
            return Ok(*known);
        }
        let Some(s3) = self.s3() else { return Ok(false) };
        let found = match self.again(async || in_time(0, s3.locks()).await).0 {
            Ok(found) => found,
            Err(failure) if failure.again => return Err(error(name, failure)),
            Err(_) => false,
        };
        Ok(*self.locks.get_or_init(|| found))
    }

    /// Locks a version of an object until some time, unless it is locked that long at least.
    ///
    /// # Errors
    /// The store's.
    pub fn lock(
        &self,
        name: &str,
        version: &str,
        at_least: SystemTime,
        until: SystemTime,
    ) -> Result<Lock, StoreError> {
        let (key, s3) = (self.path(name)?, self.need_s3(name)?);
        let retention = self.ask(name, async || in_time(0, s3.retention(key.as_ref(), version)).await)?;
        if retention.is_some_and(|found| found.compliance && found.until >= at_least) {
            return Ok(Lock::Was);
        }
        self.ask(name, async || in_time(0, s3.retain(key.as_ref(), version, until)).await)?;
        Ok(Lock::Is)
    }

    /// Deletes every version of an object, the oldest first: that is the object, and where it is locked nothing changes.
    fn delete_versions(&self, name: &str) -> Result<(), StoreError> {
        let (key, s3) = (self.path(name)?, self.need_s3(name)?);
        let mut versions = self.versions_of(key.as_ref())?;
        versions.retain(|version| version.key == key.as_ref());
        versions.sort_by_key(|version| version.time);
        for version in versions {
            let deleted = self.ask(name, async || in_time(0, s3.delete(key.as_ref(), &version.id)).await);
            match deleted {
                Err(error) if error.kind() == StoreErrorKind::NotFound => {}
                // Locked or not allowed at all: the server says the same.
                Err(error) if error.kind() == StoreErrorKind::Denied && !version.hides => {
                    let retention = async || in_time(0, s3.retention(key.as_ref(), &version.id)).await;
                    return match self.again(retention).0 {
                        Ok(Some(found)) if found.until > SystemTime::now() => {
                            let until = format!("until {}", s3::date(found.until));
                            Err(StoreError::remote(StoreErrorKind::Locked, name, &until))
                        }
                        _ => Err(error),
                    };
                }
                deleted => deleted?,
            }
        }
        Ok(())
    }

    /// All versions of all objects whose whole names begin so. Those of one object in the order in which the store took them,
    /// which their times do not tell: they are of whole seconds.
    fn versions_of(&self, prefix: &str) -> Result<Vec<answer::Version>, StoreError> {
        let s3 = self.need_s3(prefix)?;
        let (mut all, mut after) = (Vec::new(), (String::new(), String::new()));
        loop {
            let page = self.ask(prefix, async || in_time(0, s3.versions(prefix, &after)).await)?;
            all.extend(page.found);
            match page.next {
                Some(next) if next != after => after = next,
                Some(_) => {
                    let text = "the store lists versions without an end";
                    return Err(StoreError::remote(StoreErrorKind::Other, prefix, text));
                }
                None => {
                    all.reverse();
                    return Ok(all);
                }
            }
        }
    }

    /// Asks until there is an answer, it fails for good, or the tries are used up; and whether a try may have been done
    /// without an answer.
    fn again<T>(&self, ask: impl AsyncFn() -> Result<T, Trouble>) -> (Result<T, Failure>, bool) {
        self.runtime.block_on(async {
            let (start, mut lost) = (Instant::now(), false);
            for tried in 1.. {
                self.wait().await;
                let (answer, note) = wire::noted(ask()).await;
                if let Some(class) = note.class.filter(|_| judge::is_of(&note, &self.connected.host)) {
                    self.tally.add(class, note.up, note.down);
                }
                let trouble = match answer {
                    Ok(answer) => return (Ok(answer), lost),
                    Err(trouble) => trouble,
                };
                let failure = judge::judge(trouble, &note, &self.connected.host);
                lost |= failure.lost;
                if let Some(asked) = failure.retry_after {
                    self.hold(asked.min(ASKED_MAX));
                }
                if !failure.again || tried == TRIES || start.elapsed() > PATIENCE {
                    return (Err(failure), lost);
                }
                tracing::debug!(why = failure.text, tried, "the store failed; trying again");
                sleep(pause(tried)).await;
            }
            unreachable!("the tries are counted")
        })
    }

    fn hold(&self, wait: Duration) {
        let mut open_from = self.open_from.lock().expect("no thread panics with the lock");
        *open_from = (*open_from).max(Instant::now() + wait);
    }

    async fn wait(&self) {
        let open_from = *self.open_from.lock().expect("no thread panics with the lock");
        sleep(open_from.saturating_duration_since(Instant::now())).await;
    }

    /// What `again` answers, for a caller of the trait.
    fn ask<T>(&self, name: &str, ask: impl AsyncFn() -> Result<T, Trouble>) -> Result<T, StoreError> {
        self.again(ask).0.map_err(|failure| error(name, failure))
    }

    fn write(
        &self,
        name: &str,
        data: &[u8],
        mode: PutMode,
    ) -> Result<(Result<(), Failure>, bool), StoreError> {
        let path = self.path(name)?;
        let payload = PutPayload::from(data.to_vec());
        // What a store is only tried with is deleted again.
        if let (Some(lock_for), false) = (self.lock_for, name.starts_with(probe::NAME)) {
            let (s3, digest) = (self.need_s3(name)?, s3::digest_of(data));
            return Ok(self.again(async || {
                let until = SystemTime::now() + lock_for;
                let create = mode == PutMode::Create;
                in_time(data.len() as u64, s3.put(path.as_ref(), (payload.clone(), &digest), create, until))
                    .await
            }));
        }
        Ok(self.again(async || {
            let options = PutOptions { mode: mode.clone(), ..PutOptions::default() };
            in_time(data.len() as u64, self.client().put_opts(&path, payload.clone(), options))
                .await
                .map(|_| ())
        }))
    }

    /// The whole of a version; `None`: of what is read by the name alone.
    fn get_version(&self, name: &str, version: Option<&str>, limit: usize) -> Result<Vec<u8>, StoreError> {
        let path = self.path(name)?;
        self.ask(name, async || {
            let answer = in_time(0, self.client().get_opts(&path, of_version(version))).await?;
            let length = answer.meta.size;
            if length > limit as u64 {
                return Err(Trouble::TooLarge);
            }
            whole(length, answer).await
        })
    }

    /// A part of a version, likewise.
    fn get_range_of_version(
        &self,
        name: &str,
        version: Option<&str>,
        offset: u64,
        length: usize,
    ) -> Result<Vec<u8>, StoreError> {
        let path = self.path(name)?;
        if length == 0 {
            return self.len(name).map(|_| Vec::new());
        }
        let range = Some(GetRange::Bounded(offset..offset.saturating_add(length as u64)));
        let (answer, _) = self.again(async || {
            let options = GetOptions { range: range.clone(), ..of_version(version) };
            let answer = in_time(0, self.client().get_opts(&path, options)).await?;
            let length = answer.range.end - answer.range.start;
            whole(length, answer).await
        });
        match answer {
            Err(Failure { what: What::PastEnd, .. }) => Ok(Vec::new()),
            // Azurite answers with a part of nothing.
            Err(Failure { whole: Some(whole), .. }) if whole <= offset => Ok(Vec::new()),
            answer => answer.map_err(|failure| error(name, failure)),
        }
    }
}

impl Store for RemoteStore {
    fn url(&self) -> String {
        self.url.clone()
    }

    fn put(&self, name: &str, data: &[u8]) -> Result<(), StoreError> {
        self.write(name, data, PutMode::Overwrite)?.0.map_err(|failure| put_error(name, failure))
    }

    fn put_if_absent(&self, name: &str, data: &[u8]) -> Result<Put, StoreError> {
        let (put, lost) = self.write(name, data, PutMode::Create)?;
        match put {
            Ok(()) => Ok(Put::Created),
            // A try of ours may be what is there (F31).
            Err(failure) if lost => match self.get(name, data.len()) {
                Ok(found) if found == data => Ok(Put::Created),
                Ok(_) => Ok(Put::AlreadyExists),
                Err(error) if error.kind() == StoreErrorKind::TooLarge => Ok(Put::AlreadyExists),
                // Whose it was can't be told, now.
                Err(_) if failure.what == What::Exists => {
                    Err(put_error(name, Failure { what: What::Kind(StoreErrorKind::Transient), ..failure }))
                }
                Err(_) => Err(put_error(name, failure)),
            },
            Err(Failure { what: What::Exists, .. }) => Ok(Put::AlreadyExists),
            Err(failure) => Err(put_error(name, failure)),
        }
    }

    fn get(&self, name: &str, limit: usize) -> Result<Vec<u8>, StoreError> {
        self.get_version(name, None, limit)
    }

    fn get_range(&self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>, StoreError> {
        self.get_range_of_version(name, None, offset, length)
    }
    fn len(&self, name: &str) -> Result<u64, StoreError> {
        let path = self.path(name)?;
        self.ask(name, async || Ok(in_time(0, self.client().head(&path)).await?.size))
    }

    fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<Listed>, StoreError> {
        // Every name that begins with the prefix is smaller.
        if after > prefix && !after.starts_with(prefix) {
            return Ok(Vec::new());
        }
        let under = format!("{}{prefix}", self.root);
        let offset = (after >= prefix && !after.is_empty()).then(|| format!("{}{after}", self.root));
        let (mut listed, mut page_token) = (Vec::<Listed>::new(), None);
        if self.connected.hides_prefix && after < prefix && check_name(prefix).is_ok() && limit > 0 {
            match self.len(prefix) {
                Ok(length) => listed.push(Listed { name: prefix.to_owned(), length }),
                Err(error) if error.kind() == StoreErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        while listed.len() < limit {
            let page = self.ask(prefix, async || {
                let options = PaginatedListOptions {
                    offset: offset.clone(),
                    max_keys: Some((limit - listed.len()).min(PAGE)),
                    page_token: page_token.clone(),
                    ..PaginatedListOptions::default()
                };
                let under = (!under.is_empty()).then_some(under.as_str());
                in_time(0, self.client().list_paginated(under, options)).await
            });
            let page = page.map_err(|error| match error.kind() {
                StoreErrorKind::NotFound => StoreError { kind: StoreErrorKind::Other, ..error },
                _ => error,
            })?;
            for object in page.result.objects {
                let Some(name) = object.location.as_ref().strip_prefix(&self.root) else { continue };
                if name <= after || !name.starts_with(prefix) {
                    continue;
                }
                if listed.last().is_some_and(|last| last.name.as_str() >= name) {
                    let text =
                        "the store lists its objects in no order, or one twice; a vault needs another store";
                    return Err(StoreError::remote(StoreErrorKind::Other, name, text));
                }
                listed.push(Listed { name: name.to_owned(), length: object.size });
            }
            page_token = page.page_token;
            if page_token.is_none() {
                break;
            }
        }
        listed.truncate(limit);
        Ok(listed)
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        if self.has_locks(name)? {
            return self.delete_versions(name);
        }
        let path = self.path(name)?;
        match self.ask(name, async || in_time(0, self.client().delete(&path)).await) {
            Err(error) if error.kind() == StoreErrorKind::NotFound => Ok(()),
            done => done,
        }
    }
}

/// Waits as long as an answer may take that moves so many bytes.
async fn in_time<T, E: Into<Trouble>>(
    bytes: u64,
    ask: impl Future<Output = Result<T, E>>,
) -> Result<T, Trouble> {
    match timeout(ANSWER + Duration::from_secs(bytes / RATE), ask).await {
        Ok(answer) => answer.map_err(Into::into),
        Err(_) => Err(Trouble::Late),
    }
}

fn of_version(version: Option<&str>) -> GetOptions {
    GetOptions { version: version.map(str::to_owned), ..GetOptions::default() }
}

async fn whole(length: u64, answer: object_store::GetResult) -> Result<Vec<u8>, Trouble> {
    let bytes = in_time(length, answer.bytes()).await?;
    match bytes.len() as u64 == length {
        true => Ok(bytes.into()),
        false => Err(Trouble::Failed("the answer was cut off".to_owned())),
    }
}

/// Anything up to the most, so that those who failed together do not come back together.
fn pause(tried: u32) -> Duration {
    let most = PAUSE * (1 << (tried - 1));
    // The kernel has random numbers, or the pause is the longest.
    most.mul_f64(getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX)))
}

fn error(name: &str, failure: Failure) -> StoreError {
    let kind = match failure.what {
        What::Kind(kind) => kind,
        What::Exists | What::PastEnd => StoreErrorKind::Other,
    };
    match (kind, failure.text) {
        (StoreErrorKind::NotFound | StoreErrorKind::TooLarge, _) => StoreError::new(kind, name),
        (_, text) => StoreError::remote(kind, name, &text),
    }
}

/// To put into what is not there is no missing object, but a missing bucket.
fn put_error(name: &str, failure: Failure) -> StoreError {
    match failure.what {
        What::Kind(StoreErrorKind::NotFound) => {
            error(name, Failure { what: What::Kind(StoreErrorKind::Other), ..failure })
        }
        _ => error(name, failure),
    }
}
