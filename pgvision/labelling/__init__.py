"""Pre-annotation: boxes and masks in the formats of CVAT and Label Studio.

`pgvision.labelling.cvat` is a function that CVAT's tools load; `pgvision.labelling.label_studio`
reads label configs and writes predictions (`pgvision serve` answers Label Studio with it).
"""
