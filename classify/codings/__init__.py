"""From the scores of linear heads to answers: what each coding of many classes decides."""
