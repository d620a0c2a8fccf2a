"""From a study's storage to tables, plots and pages. Imports no OpenVINO and no torch.

load_results(folder) -> StudyResults        the storage, read
write_report(results, folder) -> ReportPaths  every file of the folder
report(folder) -> ReportPaths               both
front_table, plain_front, as_json           the front in the terminal and as data
"""
