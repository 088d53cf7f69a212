//! The examples of dandori: programs that embed it (`src/bin`), and project documents
//! (`hands-on`, `python-service`).
