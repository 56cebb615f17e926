//! What can go wrong, where, and what to do about it.

use std::fmt;
use std::path::PathBuf;

/// What kind of fault an [`Error`] is; the command line turns it into its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The words of the call contradict each other or name something that is not there.
    Usage,
    /// A file is missing, damaged, or not what its neighbours say it is.
    Input,
    /// A target, a format or this machine cannot take something of this size or kind.
    Limit,
    /// What was written is not what was asked for.
    Verification,
    /// A broken rule of snapc itself.
    Internal,
}

/// A place that an error names. Layers add the places they know, innermost first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file or folder.
    File(PathBuf),
    /// A tensor of a checkpoint, by its name there.
    Tensor(String),
    /// A node of a graph, by its path in the checkpoint.
    Node(String),
    /// A pass, by its name.
    Pass(String),
    /// A target.
    Target(String),
    /// A line of a text.
    Line(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File(path) => write!(f, "in {}", path.display()),
            Place::Tensor(name) => write!(f, "tensor {name}"),
            Place::Node(path) => write!(f, "at {path}"),
            Place::Pass(name) => write!(f, "in pass {name}"),
            Place::Target(name) => write!(f, "for target {name}"),
            Place::Line(number) => write!(f, "on line {number}"),
        }
    }
}

/// A message, the places that it is about, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(Box<Inner>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Inner {
    class: Class,
    message: String,
    places: Vec<Place>,
    help: Option<String>,
}

/// `Result` with snapc's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of the given class.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Error(Box::new(Inner { class, message: message.into(), places: Vec::new(), help: None }))
    }

    /// A fault of the input files.
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(Class::Input, message)
    }

    /// A fault of the call.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Class::Usage, message)
    }

    /// Something is too large, too deep or not expressible.
    pub fn limit(message: impl Into<String>) -> Self {
        Self::new(Class::Limit, message)
    }

    /// A broken rule of snapc itself: the message says so.
    pub fn bug(message: impl fmt::Display) -> Self {
        Self::new(Class::Internal, format!("a bug in snapc: {message}"))
    }

    /// Reading or writing `path` failed.
    pub fn io(what: &str, path: impl Into<PathBuf>, error: &std::io::Error) -> Self {
        let path = path.into();
        Self::input(format!("cannot {what} {}: {error}", path.display()))
    }

    /// The system gives no further thread.
    pub fn thread(error: impl fmt::Display) -> Self {
        Self::limit(format!("cannot start a thread: {error}"))
            .help("allow the process more memory or threads, or let it start fewer with --jobs 1")
    }

    /// Adds a place that this layer knows.
    pub fn at(mut self, place: Place) -> Self {
        if !self.0.places.contains(&place) {
            self.0.places.push(place);
        }
        self
    }

    /// Says what the user can do; the first one said stays.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.0.help.get_or_insert(help.into());
        self
    }

    /// The same error as another kind of fault: what is a slip on the command line is damage in a file.
    pub fn as_class(mut self, class: Class) -> Self {
        self.0.class = class;
        self
    }

    /// The kind of fault.
    pub fn class(&self) -> Class {
        self.0.class
    }

    /// The message, without places.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The places, innermost first.
    pub fn places(&self) -> &[Place] {
        &self.0.places
    }

    /// What to do, where it is known.
    pub fn help_text(&self) -> Option<&str> {
        self.0.help.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.message)?;
        for place in &self.0.places {
            write!(f, "; {place}")?;
        }
        if let Some(help) = &self.0.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// Adds a place to the error of a `Result`.
pub trait Context<T> {
    /// Adds the place if this is an error.
    fn at(self, place: impl FnOnce() -> Place) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn at(self, place: impl FnOnce() -> Place) -> Result<T> {
        self.map_err(|error| error.at(place()))
    }
}
