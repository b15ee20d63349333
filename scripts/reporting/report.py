def write_report(folder, paper_file):
    return folder
