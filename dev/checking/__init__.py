"""What ``./callboard check`` looks at: one small function per question, all listed in :mod:`dev.checking.checks`."""
