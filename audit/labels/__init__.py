"""People's labels of a run's pictures: drawn, exported, read back, and turned into the judges' error rates.

Only the pictures of a simple random sample calibrate a judge. Which pictures these are does not depend on what any judge
said of them, so the judge's hits among those that raters call positive are binomial with its sensitivity, and its clears
among the others with its specificity. Pictures drawn because a judge said "hit" are not: a judge that finds one picture
in two, all of whose hits and few of whose clears are labelled, would look nearly perfect. These are labelled for review
(how many of the hits are real), and never counted in a calibration.
"""
