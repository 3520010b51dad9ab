//! Histograms from files, and how they are shown: `corelog hist`, and the end of a run.
//!
//! | Module | Owns |
//! |---|---|
//! | [`read`] | what files there are, and what is in them |
//! | [`payload`] | one encoded histogram, of any of the formats |
//! | [`over_time`] | a distribution in its course, in bounded memory |
//! | [`summary`] | the numbers of a distribution, as far as its samples bear them |
//! | [`scale`] | units, and axes that people can read |
//! | [`terminal`] | drawings of text |
//! | [`page`] | a self-contained page or picture |

pub mod over_time;
pub mod payload;
pub mod read;
pub mod scale;
pub mod summary;
